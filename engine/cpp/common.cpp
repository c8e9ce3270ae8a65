// onnxgraft export: a program for one engine.
//
// Loads an engine, prepares a picture by its recipe, runs it, and compares what it answers with the
// answers that are stored beside it. It needs the runtime alone.
//
//   PROGRAM FOLDER                compares; the exit status is 0 where the answers agree
//   PROGRAM FOLDER PICTURE.ppm    says what the engine answers to a picture (binary PPM or PGM)

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Port {
  std::string name;
  std::string file;  // What is stored of it.
};

// What becomes of a picture of 8 bits a channel.
struct Recipe {
  bool taken;               // Whether the engine takes pictures.
  bool larger;              // And larger pictures, of which it cuts its part.
  int64_t height, width;    // Of the pictures that it takes; 0 where any will do.
  int64_t top, left, rows, columns;  // The part that is kept; 0 rows keep all.
  int64_t pad_height, pad_width;     // What that is filled up to, below and on the right.
  uint8_t pad_value;
  bool bgr, planes;         // Blue first; a plane for each channel, as in NCHW.
  std::vector<float> mean, scale, deviation;  // For each channel; empty where there are none.
};

// CONSTANTS

struct Array {
  std::string type;  // As NumPy writes it: <f4, |u1.
  std::vector<int64_t> shape;
  std::vector<char> bytes;

  size_t item() const { return std::stoul(type.substr(2)); }
  size_t count() const { return bytes.size() / item(); }
};

static std::string text_of(const std::vector<int64_t>& shape) {
  std::ostringstream text;
  for (size_t axis = 0; axis < shape.size(); ++axis) text << (axis ? "x" : "") << shape[axis];
  return shape.empty() ? "a number" : text.str();
}

static std::vector<char> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": can't be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

static Array read_array(const std::string& path) {
  const std::vector<char> data = read_file(path);
  const auto damaged = [&](bool wrong) {
    if (wrong) throw std::runtime_error(path + ": is no array of NumPy's, or is damaged");
  };
  damaged(data.size() < 12 || std::memcmp(data.data(), "\x93NUMPY", 6) != 0);
  const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<uint8_t>(data[at])); };
  const bool wide = data[6] > 1;
  const size_t begin = wide ? 12 : 10;
  const size_t length = byte(8) + (byte(9) << 8) + (wide ? (byte(10) << 16) + (byte(11) << 24) : 0);
  damaged(begin + length > data.size());
  const std::string header(data.data() + begin, length);
  damaged(header.find("'fortran_order': False") == std::string::npos);
  Array array;
  const size_t type = header.find("'descr': '"), shape = header.find("'shape': (");
  damaged(type == std::string::npos || shape == std::string::npos);
  array.type = header.substr(type + 10, 3);
  int64_t product = 1;
  std::istringstream sizes(header.substr(shape + 10, header.find(')', shape) - shape - 10));
  for (std::string size; std::getline(sizes, size, ',');) {
    if (size.find_first_of("0123456789") == std::string::npos) continue;
    array.shape.push_back(std::stoll(size));
    product *= array.shape.back();
  }
  array.bytes.assign(data.begin() + begin + length, data.end());
  damaged(array.bytes.size() != static_cast<size_t>(product) * array.item());
  return array;
}

template <class T>
static T item_of(const Array& array, size_t index) {
  T value;
  std::memcpy(&value, array.bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

static double half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double value = exponent == 31 ? (fraction ? std::nan("") : HUGE_VAL)
                 : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                                : std::ldexp(fraction, -24);
  return bits >> 15 ? -value : value;
}

static double value_of(const Array& array, size_t index) {
  const std::string kind = array.type.substr(1);
  if (kind == "f4") return item_of<float>(array, index);
  if (kind == "f8") return item_of<double>(array, index);
  if (kind == "f2") return half(item_of<uint16_t>(array, index));
  if (kind == "u1" || kind == "b1") return item_of<uint8_t>(array, index);
  if (kind == "i1") return item_of<int8_t>(array, index);
  if (kind == "i4") return item_of<int32_t>(array, index);
  if (kind == "i8") return static_cast<double>(item_of<int64_t>(array, index));
  throw std::runtime_error("values of the type " + array.type + " are not known here");
}

// A picture ------------------------------------------------------------------------------------

struct Picture {
  int64_t height, width, channels;
  std::vector<uint8_t> pixels;  // Red, green, blue; or gray.
};

static Picture read_picture(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": can't be read");
  const auto word = [&] {
    std::string found;
    while (file >> found && found[0] == '#') std::getline(file, found);
    return found;
  };
  const std::string kind = word();
  Picture picture{0, 0, kind == "P6" ? 3 : 1, {}};
  if (kind != "P6" && kind != "P5") throw std::runtime_error(path + ": is no binary PPM or PGM");
  const auto side = [&] {
    const std::string text = word();
    const bool number = text.find_first_not_of("0123456789") == std::string::npos;
    const int64_t found = number && !text.empty() && text.size() < 6 ? std::stoi(text) : 0;
    if (found < 1) throw std::runtime_error(path + ": is no picture of a usual size");
    return found;
  };
  picture.width = side();
  picture.height = side();
  if (word() != "255") throw std::runtime_error(path + ": has not 8 bits a channel");
  file.get();
  picture.pixels.resize(picture.width * picture.height * picture.channels);
  file.read(reinterpret_cast<char*>(picture.pixels.data()), picture.pixels.size());
  if (!file) throw std::runtime_error(path + ": ends early");
  return picture;
}

// Returns what the engine takes of a picture; `like` has its type, and its shape but for the size.
static Array prepare(const Picture& picture, const Recipe& recipe, const Array& like) {
  const bool small = picture.height < recipe.height || picture.width < recipe.width;
  const bool large = picture.height > recipe.height || picture.width > recipe.width;
  if (recipe.height && (small || (large && !recipe.larger))) {
    std::ostringstream text;
    text << "the picture has " << picture.width << "x" << picture.height << " pixels, and "
         << (recipe.larger ? "at least " : "") << recipe.width << "x" << recipe.height << " are taken: resize it before, or build the "
         << "engine with --bake preprocess";
    throw std::runtime_error(text.str());
  }
  const int64_t rows = recipe.rows ? recipe.rows : picture.height;
  const int64_t columns = recipe.rows ? recipe.columns : picture.width;
  const int64_t height = std::max(rows, recipe.pad_height);
  const int64_t width = std::max(columns, recipe.pad_width);
  const int64_t channels = picture.channels;
  Array array{like.type, like.shape, {}};
  const size_t rank = array.shape.size();
  const size_t at = recipe.planes ? rank - 2 : rank - 3;  // Where the height is in the shape.
  const size_t depth = recipe.planes ? rank - 3 : rank - 1;
  if (array.shape[depth] != channels)
    throw std::runtime_error("the engine takes pictures of " + std::to_string(array.shape[depth]) +
                             " channels: PPM has 3, PGM 1");
  array.shape[at] = height;
  array.shape[at + 1] = width;
  const int64_t batch = rank == 4 ? array.shape[0] : 1, size = height * width * channels;
  const bool whole = array.type == "|u1";
  array.bytes.resize(batch * size * array.item());
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t channel = 0; channel < channels; ++channel) {
        const int64_t from = recipe.bgr ? channels - 1 - channel : channel;
        const int64_t pixel = (y + recipe.top) * picture.width + x + recipe.left;
        const bool inside = y < rows && x < columns;
        float value = inside ? picture.pixels[pixel * channels + from] : recipe.pad_value;
        if (!recipe.mean.empty()) value -= recipe.mean[channel];
        if (!recipe.scale.empty()) value *= recipe.scale[channel];
        if (!recipe.deviation.empty()) value /= recipe.deviation[channel];
        const int64_t to = recipe.planes ? (channel * height + y) * width + x
                                         : (y * width + x) * channels + channel;
        if (whole) {
          array.bytes[to] = static_cast<char>(static_cast<uint8_t>(value));
        } else {
          std::memcpy(array.bytes.data() + to * sizeof value, &value, sizeof value);
        }
      }
  const size_t one = size * array.item();
  for (int64_t sample = 1; sample < batch; ++sample)
    std::copy_n(array.bytes.begin(), one, array.bytes.begin() + sample * one);
  return array;
}

// The engine -----------------------------------------------------------------------------------

// ENGINE

// Answers --------------------------------------------------------------------------------------

static bool agrees(const std::string& name, const Array& found, const Array& wanted) {
  // OpenVINO may answer with a row where the graph has a vector.
  const auto plain = [](const std::vector<int64_t>& shape) {
    const auto begin = std::find_if(shape.begin(), shape.end(), [](int64_t d) { return d != 1; });
    return std::vector<int64_t>(begin, shape.end());
  };
  if (plain(found.shape) != plain(wanted.shape) || found.type != wanted.type) {
    std::cout << name << ": " << text_of(found.shape) << " of " << found.type << ", and "
              << text_of(wanted.shape) << " of " << wanted.type << " is stored\n";
    return false;
  }
  const bool floats = wanted.type[1] == 'f';
  double low = 0, high = 0, most = 0;
  size_t others = 0;
  for (size_t index = 0; index < wanted.count(); ++index) {
    const double mine = value_of(found, index), stored = value_of(wanted, index);
    if (std::isfinite(stored)) low = std::min(low, stored), high = std::max(high, stored);
    if (mine == stored || (std::isnan(mine) && std::isnan(stored))) continue;
    ++others;
    const double difference = std::abs(mine - stored);
    most = std::isfinite(difference) ? std::max(most, difference) : HUGE_VAL;
  }
  const double allowed = floats ? tolerance * (high - low) : std::floor(ties * wanted.count());
  const bool passed = (floats ? most : others) <= allowed;
  if (floats) {
    std::cout << name << ": differs by " << most << " at most, and " << allowed << " is allowed ("
              << tolerance << " of its range)";
  } else {
    std::cout << name << ": " << others << " of " << wanted.count() << " values differ, and "
              << allowed << " may";
  }
  std::cout << (passed ? ": pass\n" : ": FAIL\n");
  return passed;
}

static void tell(const std::string& name, const Array& found) {
  std::cout << name << ": " << text_of(found.shape);
  size_t best = 0;
  for (size_t index = 1; index < found.count(); ++index)
    if (value_of(found, index) > value_of(found, best)) best = index;
  if (found.count()) std::cout << ", largest at " << best << ": " << value_of(found, best);
  std::cout << "\n";
}

int main(int count, char** words) try {
  if (count < 2 || count > 3) {
    std::cerr << "usage: " << words[0] << " FOLDER [PICTURE.ppm]\n";
    return 2;
  }
  const std::string folder = std::string(words[1]) + "/";
  const bool given = count == 3;
  std::vector<Array> feeds, wanted;
  for (const Port& port : inputs) feeds.push_back(read_array(folder + port.file));
  for (const Port& port : outputs) wanted.push_back(read_array(folder + port.file));
  if (recipe.taken) {
    const Picture picture = read_picture(given ? words[2] : folder + "sample.ppm");
    Array made = prepare(picture, recipe, feeds[0]);
    if (!given && made.bytes != feeds[0].bytes) {
      std::cout << "sample.ppm: is prepared otherwise than by onnxgraft: FAIL\n";
      return 1;
    }
    feeds[0] = made;
  } else if (given) {
    throw std::runtime_error("this engine takes no pictures here; the arrays beside it are fed");
  }
  const std::vector<Array> found = run(folder + engine_file, feeds);
  bool passed = true;
  for (size_t index = 0; index < outputs.size(); ++index) {
    if (given) {
      tell(outputs[index].name, found[index]);
    } else {
      passed &= agrees(outputs[index].name, found[index], wanted[index]);
    }
  }
  return passed ? 0 : 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 2;
}
