#include <openvino/openvino.hpp>

static const std::pair<const char*, ov::element::Type> types[] = {
    {"<f4", ov::element::f32}, {"<f8", ov::element::f64},     {"<f2", ov::element::f16},
    {"|u1", ov::element::u8},  {"|i1", ov::element::i8},      {"|b1", ov::element::boolean},
    {"<i4", ov::element::i32}, {"<i8", ov::element::i64}};

// Returns the model in an engine file: of two, the second is for batches of one.
static std::string model_of(const std::string& path, const std::vector<Array>& feeds) {
  const std::vector<char> data = read_file(path);
  const size_t end = 16;
  if (data.size() <= end || std::memcmp(&data[data.size() - 8], "OVx2\r\n\x1a\n", 8) != 0)
    return {data.begin(), data.end()};
  uint64_t first;
  std::memcpy(&first, &data[data.size() - end], sizeof first);
  if (first > data.size() - end) throw std::runtime_error(path + ": is damaged");
  const bool single = std::all_of(feeds.begin(), feeds.end(), [](const Array& feed) {
    return !feed.shape.empty() && feed.shape[0] == 1;
  });
  if (single) return {data.begin() + first, data.end() - end};
  return {data.begin(), data.begin() + first};
}

static std::vector<Array> run(const std::string& path, std::vector<Array>& feeds) {
  ov::Core core;
  std::istringstream model(model_of(path, feeds));
  ov::AnyMap config;
  // A device takes what it knows; HETERO looks by itself.
  const bool several = device.find(':') != std::string::npos;
  std::vector<ov::PropertyName> known;
  if (!several) known = core.get_property(device, ov::supported_properties);
  for (const auto& setting : settings)
    if (several || std::find(known.begin(), known.end(), setting.first) != known.end())
      config[setting.first] = setting.second;
  ov::CompiledModel compiled = core.import_model(model, device, config);
  ov::InferRequest request = compiled.create_infer_request();
  for (size_t index = 0; index < feeds.size(); ++index) {
    Array& feed = feeds[index];
    bool known = false;
    for (const auto& type : types)
      if (feed.type == type.first) {
        const ov::Shape shape(feed.shape.begin(), feed.shape.end());
        request.set_tensor(inputs[index].name, ov::Tensor(type.second, shape, feed.bytes.data()));
        known = true;
      }
    if (!known) throw std::runtime_error(inputs[index].name + ": is of an unknown type");
  }
  request.infer();
  std::vector<Array> found;
  for (const Port& port : outputs) {
    const ov::Tensor answer = request.get_tensor(port.name);
    const ov::Shape shape = answer.get_shape();
    Array array{"", {shape.begin(), shape.end()}, {}};
    for (const auto& type : types)
      if (answer.get_element_type() == type.second) array.type = type.first;
    if (array.type.empty()) throw std::runtime_error(port.name + ": is of an unknown type");
    const auto* bytes = static_cast<const char*>(answer.data());
    array.bytes.assign(bytes, bytes + answer.get_byte_size());
    found.push_back(array);
  }
  return found;
}
