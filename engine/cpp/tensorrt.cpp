#include <NvInfer.h>
#include <cuda_runtime_api.h>
#include <memory>

static const std::pair<const char*, nvinfer1::DataType> types[] = {
    {"<f4", nvinfer1::DataType::kFLOAT}, {"<f2", nvinfer1::DataType::kHALF},
    {"|u1", nvinfer1::DataType::kUINT8}, {"|i1", nvinfer1::DataType::kINT8},
    {"|b1", nvinfer1::DataType::kBOOL},  {"<i4", nvinfer1::DataType::kINT32},
    {"<i8", nvinfer1::DataType::kINT64}};

class Log : public nvinfer1::ILogger {
  void log(Severity severity, const char* text) noexcept override {
    if (severity <= Severity::kERROR) std::cerr << text << "\n";
  }
};

static void need(cudaError_t status, const std::string& what) {
  if (status != cudaSuccess)
    throw std::runtime_error(what + ": " + cudaGetErrorString(status));
}

// Memory on the GPU.
struct Device {
  void* at = nullptr;
  explicit Device(size_t bytes) { need(cudaMalloc(&at, std::max<size_t>(bytes, 1)), "GPU memory"); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() { cudaFree(at); }
};

// Returns what NumPy calls the type of an input or output; nothing where it has none.
static std::string type_of(const nvinfer1::ICudaEngine& engine, const char* name) {
  for (const auto& type : types)
    if (engine.getTensorDataType(name) == type.second) return type.first;
  return "";
}

// Says whether a profile takes the shapes of all inputs.
static bool takes(const nvinfer1::ICudaEngine& engine, int profile, const std::vector<Array>& feeds) {
  using nvinfer1::OptProfileSelector;
  for (size_t index = 0; index < feeds.size(); ++index) {
    const char* name = inputs[index].name.c_str();
    const auto low = engine.getProfileShape(name, profile, OptProfileSelector::kMIN);
    const auto high = engine.getProfileShape(name, profile, OptProfileSelector::kMAX);
    const std::vector<int64_t>& shape = feeds[index].shape;
    if (low.nbDims != static_cast<int32_t>(shape.size())) return false;
    for (size_t axis = 0; axis < shape.size(); ++axis)
      if (shape[axis] < low.d[axis] || shape[axis] > high.d[axis]) return false;
  }
  return true;
}

static std::vector<Array> run(const std::string& path, std::vector<Array>& feeds) {
  const std::vector<char> plan = read_file(path);
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0)
    throw std::runtime_error("there is no NVIDIA GPU here, or no driver that suits this CUDA");
  Log log;
  const std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(log));
  if (!runtime) throw std::runtime_error("TensorRT can't begin here");
  if (dla_core >= 0) runtime->setDLACore(dla_core);
  const std::unique_ptr<nvinfer1::ICudaEngine> engine(
      runtime->deserializeCudaEngine(plan.data(), plan.size()));
  if (!engine)
    throw std::runtime_error(path + ": can't be loaded; an engine belongs to the GPU and the "
                                    "TensorRT that built it: build it here");
  const std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  if (!context) throw std::runtime_error(path + ": there is no memory to run it");
  int profile = 0;
  while (profile < engine->getNbOptimizationProfiles() && !takes(*engine, profile, feeds)) ++profile;
  if (profile == engine->getNbOptimizationProfiles())
    throw std::runtime_error("no profile of the engine takes inputs of this shape");
  cudaStream_t stream;
  need(cudaStreamCreate(&stream), "a stream");
  const std::unique_ptr<CUstream_st, cudaError_t (*)(cudaStream_t)> closing(stream,
                                                                            cudaStreamDestroy);
  bool done = context->setOptimizationProfileAsync(profile, stream);
  std::vector<std::unique_ptr<Device>> memory;
  const auto place = [&](const char* name, size_t bytes) {
    memory.push_back(std::make_unique<Device>(bytes));
    done &= context->setTensorAddress(name, memory.back()->at);
    return memory.back()->at;
  };
  for (size_t index = 0; index < feeds.size(); ++index) {
    const Array& feed = feeds[index];
    const char* name = inputs[index].name.c_str();
    if (type_of(*engine, name) != feed.type)
      throw std::runtime_error(std::string(name) + ": the engine takes another type of numbers");
    nvinfer1::Dims shape{};
    shape.nbDims = static_cast<int32_t>(feed.shape.size());
    std::copy(feed.shape.begin(), feed.shape.end(), shape.d);
    done &= context->setInputShape(name, shape);
    void* at = place(name, feed.bytes.size());
    need(cudaMemcpyAsync(at, feed.bytes.data(), feed.bytes.size(), cudaMemcpyHostToDevice, stream),
         inputs[index].name);
  }
  std::vector<Array> found;
  for (const Port& port : outputs) {
    const nvinfer1::Dims shape = context->getTensorShape(port.name.c_str());
    if (shape.nbDims < 0) throw std::runtime_error(port.name + ": the engine has no such output");
    Array array{type_of(*engine, port.name.c_str()), {shape.d, shape.d + shape.nbDims}, {}};
    if (array.type.empty()) throw std::runtime_error(port.name + ": is of an unknown type");
    size_t bytes = array.item();
    for (const int64_t size : array.shape) {
      if (size < 0) throw std::runtime_error(port.name + ": its shape depends on values");
      bytes *= static_cast<size_t>(size);
    }
    array.bytes.resize(bytes);
    place(port.name.c_str(), bytes);
    found.push_back(array);
  }
  done = done && context->enqueueV3(stream);
  if (!done) throw std::runtime_error("the engine can't run this");
  for (size_t index = 0; index < found.size(); ++index)
    need(cudaMemcpyAsync(found[index].bytes.data(), memory[feeds.size() + index]->at,
                         found[index].bytes.size(), cudaMemcpyDeviceToHost, stream),
         outputs[index].name);
  need(cudaStreamSynchronize(stream), "the engine");
  return found;
}
