// While it lives, an access without permission by a kernel ends that kernel's launch instead of the process.
#pragma once

#include <signal.h>

#include <memory>

namespace lowbit::emulated {

class FaultHandler {
 public:
  FaultHandler();
  ~FaultHandler();
  FaultHandler(const FaultHandler&) = delete;
  FaultHandler& operator=(const FaultHandler&) = delete;

 private:
  std::unique_ptr<char[]> stack_;
  stack_t old_stack_;
};

}  // namespace lowbit::emulated
