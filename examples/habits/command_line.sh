dms demo --table train.npz
dms fit train.npz -o model
dms predict model train.npz -o predictions.npz
dms explain train.npz --spec model --sample 1028
dms export onnx model -o model
