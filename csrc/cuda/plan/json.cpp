#include "cuda/plan/json.h"

#include <algorithm>

#include "cuda/api/checks.h"
#include "cuda/error.h"

namespace lowbit::cuda {

void copy_text(const std::string& json, char* text, size_t capacity, size_t* length) {
  check_not_null(length, "length");
  *length = json.size() + 1;
  if (*length > capacity) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "text has room for %zu bytes; allowed: %zu or more", capacity,
                *length);
  }
  check_not_null(text, "text");
  std::copy_n(json.c_str(), *length, text);
}

}  // namespace lowbit::cuda
