#include "core/error.h"

#include <cstdarg>
#include <cstdio>

namespace lowbit {
namespace {

thread_local char sentence[512] = "";

}  // namespace

lowbit_status fail(lowbit_status status, const char* format, ...) noexcept {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(sentence, sizeof(sentence), format, arguments);
  va_end(arguments);
  return status;
}

const char* last_error() noexcept {
  return sentence;
}

}  // namespace lowbit
