// Asks Triton Inference Server inside this process, without a network, by its C API.
//
// This follows tritonserver.h, version 1 of the API. It was never linked to a server, nor run.

#include <triton/core/tritonserver.h>

#include <cstdio>
#include <cstdlib>
#include <future>

using Answer = std::promise<TRITONSERVER_InferenceResponse*>;

void check(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  std::fprintf(stderr, "%s\n", TRITONSERVER_ErrorMessage(error));
  std::exit(1);
}

TRITONSERVER_Error* allocate(TRITONSERVER_ResponseAllocator*, const char*, size_t size,
                             TRITONSERVER_MemoryType, int64_t, void*, void** buffer,
                             void** with_it, TRITONSERVER_MemoryType* type, int64_t* id) {
  *buffer = size ? std::malloc(size) : nullptr;
  *with_it = nullptr;
  *type = TRITONSERVER_MEMORY_CPU;
  *id = 0;
  return nullptr;
}

TRITONSERVER_Error* release(TRITONSERVER_ResponseAllocator*, void* buffer, void*, size_t,
                            TRITONSERVER_MemoryType, int64_t) {
  std::free(buffer);
  return nullptr;
}

void request_is_done(TRITONSERVER_InferenceRequest* request, const uint32_t, void*) {
  check(TRITONSERVER_InferenceRequestDelete(request));
}

void is_answered(TRITONSERVER_InferenceResponse* response, const uint32_t, void* answer) {
  if (response != nullptr) static_cast<Answer*>(answer)->set_value(response);
}

// The inputs of one row: 3 and 2 features, and which of the two modalities are there.
const float image[] = {0.1f, 0.2f, 0.3f}, text[] = {0.0f, 0.0f};
const bool present[] = {true, false};

void add(TRITONSERVER_InferenceRequest* request, const char* name, TRITONSERVER_DataType type,
         int64_t width, const void* data, size_t bytes) {
  const int64_t shape[] = {1, width};
  check(TRITONSERVER_InferenceRequestAddInput(request, name, type, shape, 2));
  check(TRITONSERVER_InferenceRequestAppendInputData(request, name, data, bytes,
                                                     TRITONSERVER_MEMORY_CPU, 0));
}

int main(int, char** words) {  // the absolute path of served/triton
  TRITONSERVER_ServerOptions* options;
  TRITONSERVER_Server* server;
  check(TRITONSERVER_ServerOptionsNew(&options));
  check(TRITONSERVER_ServerOptionsSetModelRepositoryPath(options, words[1]));
  check(TRITONSERVER_ServerNew(&server, options));
  check(TRITONSERVER_ServerOptionsDelete(options));

  TRITONSERVER_InferenceRequest* request;
  TRITONSERVER_ResponseAllocator* allocator;
  Answer answer;
  check(TRITONSERVER_InferenceRequestNew(&request, server, "trust", -1));
  add(request, "image", TRITONSERVER_TYPE_FP32, 3, image, sizeof image);
  add(request, "text", TRITONSERVER_TYPE_FP32, 2, text, sizeof text);
  add(request, "present", TRITONSERVER_TYPE_BOOL, 2, present, sizeof present);
  check(TRITONSERVER_InferenceRequestAddRequestedOutput(request, "probabilities"));
  check(TRITONSERVER_ResponseAllocatorNew(&allocator, allocate, release, nullptr));
  check(TRITONSERVER_InferenceRequestSetReleaseCallback(request, request_is_done, nullptr));
  check(TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator, nullptr, is_answered,
                                                         &answer));
  check(TRITONSERVER_ServerInferAsync(server, request, nullptr));

  TRITONSERVER_InferenceResponse* response = answer.get_future().get();
  check(TRITONSERVER_InferenceResponseError(response));
  const char* name;
  TRITONSERVER_DataType type;
  TRITONSERVER_MemoryType where;
  const int64_t* shape;
  uint64_t axes;
  const void* data;
  size_t bytes;
  int64_t id;
  void* with_it;
  check(TRITONSERVER_InferenceResponseOutput(response, 0, &name, &type, &shape, &axes, &data,
                                             &bytes, &where, &id, &with_it));
  for (int64_t k = 0; k < shape[1]; ++k)
    std::printf("%s %d: %g\n", name, static_cast<int>(k), static_cast<const float*>(data)[k]);
  check(TRITONSERVER_InferenceResponseDelete(response));
  check(TRITONSERVER_ResponseAllocatorDelete(allocator));
  check(TRITONSERVER_ServerDelete(server));
}
