// Plans in words and numbers, as JSON.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace lowbit::cuda {

// A sentence with numbers in it.
template <class... T>
std::string sentence(const char* format, T... values) {
  char buffer[320];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

// An object's members, one after the other. Texts are this library's own and need no escapes.
class Json {
 public:
  void add(const char* name, int64_t value) {
    key(name);
    text_ += std::to_string(value);
  }
  void add(const char* name, const std::string& value) {
    key(name);
    text_ += '"' + value + '"';
  }
  void add_raw(const char* name, const std::string& value) {
    key(name);
    text_ += value;
  }
  std::string object() const { return '{' + text_ + '}'; }

 private:
  void key(const char* name) {
    if (!text_.empty()) text_ += ", ";
    text_ += '"';
    text_ += name;
    text_ += "\": ";
  }

  std::string text_;
};

// The kernels that were not taken, each with its reason: a list of objects.
class Rejected {
 public:
  void add(const char* kernel, const std::string& reason) {
    Json json;
    json.add("kernel", std::string(kernel));
    json.add("reason", reason);
    text_ += (text_.empty() ? "" : ", ") + json.object();
  }
  std::string list() const { return '[' + text_ + ']'; }

 private:
  std::string text_;
};

// The text for a caller of the C interface: `length` receives what it needs with its zero. Throws where that
// exceeds `capacity`; then nothing else is written.
void copy_text(const std::string& json, char* text, size_t capacity, size_t* length);

}  // namespace lowbit::cuda
