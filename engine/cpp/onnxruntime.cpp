#include <onnxruntime_cxx_api.h>

static const std::pair<const char*, ONNXTensorElementDataType> types[] = {
    {"<f4", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},  {"<f8", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},
    {"<f2", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}, {"|u1", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
    {"|i1", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},   {"|b1", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
    {"<i4", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},  {"<i8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64}};

static std::vector<Array> run(const std::string& path, std::vector<Array>& feeds) {
  const std::vector<char> model = read_file(path);
  Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "engine");
  Ort::SessionOptions options;
  options.AddConfigEntry("session.load_model_format", "ONNX");
  // What this version makes wrongly of sound graphs.
  options.AddConfigEntry("optimization.disable_specified_optimizers", left_out);
  if (threads) options.SetIntraOpNumThreads(threads);
  Ort::Session session(environment, model.data(), model.size(), options);
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<const char*> taken, given;
  for (const Port& port : inputs) taken.push_back(port.name.c_str());
  for (const Port& port : outputs) given.push_back(port.name.c_str());
  std::vector<Ort::Value> values;
  for (Array& feed : feeds)
    for (const auto& type : types)
      if (feed.type == type.first)
        values.push_back(Ort::Value::CreateTensor(memory, feed.bytes.data(), feed.bytes.size(),
                                                  feed.shape.data(), feed.shape.size(),
                                                  type.second));
  if (values.size() != feeds.size()) throw std::runtime_error("an input is of an unknown type");
  const auto answers = session.Run(Ort::RunOptions{nullptr}, taken.data(), values.data(),
                                   values.size(), given.data(), given.size());
  std::vector<Array> found;
  for (const Ort::Value& answer : answers) {
    const auto about = answer.GetTensorTypeAndShapeInfo();
    Array array{"", about.GetShape(), {}};
    for (const auto& type : types)
      if (about.GetElementType() == type.second) array.type = type.first;
    if (array.type.empty()) throw std::runtime_error("an output is of an unknown type");
    const auto* bytes = static_cast<const char*>(answer.GetTensorRawData());
    array.bytes.assign(bytes, bytes + about.GetElementCount() * array.item());
    found.push_back(array);
  }
  return found;
}
