// Failures of host code that is compiled by nvcc: thrown where they are found, turned into a status and a
// sentence at the C interface.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <exception>

#include "core/error.h"

namespace lowbit {

class Error : public std::exception {
 public:
  [[gnu::format(printf, 3, 4)]] Error(lowbit_status status, const char* format, ...) : status_(status) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text_, sizeof(text_), format, arguments);
    va_end(arguments);
  }

  lowbit_status status() const noexcept { return status_; }
  const char* what() const noexcept override { return text_; }

 private:
  lowbit_status status_;
  char text_[512];
};

// Body of a C entry: runs `body`, which returns a status, and records what it throws for lowbit_last_error().
template <class Body>
lowbit_status guarded(const Body& body) noexcept {
  try {
    return body();
  } catch (const Error& error) {
    return fail(error.status(), "%s", error.what());
  } catch (const std::exception& error) {
    return fail(LOWBIT_OUT_OF_MEMORY, "%s", error.what());
  }
}

}  // namespace lowbit
