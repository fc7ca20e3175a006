// Runs an exported scheduler on one sample: image and text are there, audio is not.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <type_traits>
#include <vector>

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s model.onnx\n", arguments[0]);
    return 2;
  }
  Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "dms-spec");
  // A string of ORTCHAR_T: of wchar_t on Windows.
  const std::filesystem::path path(arguments[1]);
  Ort::Session session(environment, path.c_str(), Ort::SessionOptions{});

  // What stands where a modality is absent is never read; NaN shows it.
  std::array<float, 6> features = {1.0f, 0.0f, 0.9f, 0.3f, NAN, NAN};               // [B, M, D]
  std::array<float, 9> logits = {4.0f, 0.0f, 0.0f, 1.0f, 0.5f, 0.0f, NAN, NAN, NAN};  // [B, M, C]
  std::array<float, 9> passes = {};                                              // [T, B, M, C]
  std::array<bool, 3> present = {true, true, false};                             // [B, M]

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  const auto tensor = [&](auto& values, const std::vector<int64_t>& shape) {
    using Element = typename std::decay_t<decltype(values)>::value_type;
    return Ort::Value::CreateTensor<Element>(memory, values.data(), values.size(), shape.data(),
                                             shape.size());
  };
  std::vector<Ort::Value> inputs;
  inputs.push_back(tensor(features, {1, 3, 2}));
  inputs.push_back(tensor(logits, {1, 3, 3}));
  inputs.push_back(tensor(passes, {1, 1, 3, 3}));
  inputs.push_back(tensor(present, {1, 3}));

  // Every input is named: their order in the file is not promised.
  const std::array given = {"features", "logits", "mc_logits", "present"};
  const std::array wanted = {"weights", "fused"};
  const auto outputs = session.Run(Ort::RunOptions{nullptr}, given.data(), inputs.data(),
                                   inputs.size(), wanted.data(), wanted.size());
  for (std::size_t k = 0; k < wanted.size(); ++k) {
    std::printf("%s", wanted[k]);
    const float* values = outputs[k].GetTensorData<float>();
    const std::size_t size = outputs[k].GetTensorTypeAndShapeInfo().GetElementCount();
    for (std::size_t i = 0; i < size; ++i) std::printf(" %.9g", values[i]);
    std::printf("\n");
  }
}
