#include "emulated/faults.h"

#include <ucontext.h>

#include <cstddef>

#include "emulated/buffers.h"
#include "emulated/execution.h"

namespace lowbit::emulated {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS};
constexpr size_t kHandlerStackBytes = 64 << 10;  // a fibre that has run out of stack cannot lend its own

struct sigaction old_actions[2];

const char* verb([[maybe_unused]] const void* context) {
#if defined(__x86_64__)
  constexpr greg_t kWriteBit = 2;
  return static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & kWriteBit ? "writes" : "reads";
#else
  return "accesses";
#endif
}

// The fault is the running thread's own doing, so the state of the device is whole, and leaving the handler
// by a switch to the host is as good as any other way for a thread to end.
void handle(int signal, siginfo_t* info, void* context) {
  if (!in_kernel()) {
    sigaction(signal, &old_actions[signal == SIGBUS], nullptr);  // the access is repeated, and meets that
    return;
  }
  const char* const address = static_cast<const char*>(info->si_addr);
  if (is_stack_overflow(address)) fail_thread("stack overflow");
  const Buffer* const buffer = find_buffer(address);
  if (buffer == nullptr) {
    fail_thread("out of bounds: %s address %p, which is no device memory", verb(context),
                static_cast<const void*>(address));
  }
  const ptrdiff_t offset = address - buffer->data;
  fail_thread("out of bounds: %s byte %td of a %s of %zu bytes, %s", verb(context), offset, buffer->kind,
              buffer->bytes, offset < 0 ? "before its start" : "past its end");
}

}  // namespace

FaultHandler::FaultHandler() : stack_(new char[kHandlerStackBytes]) {
  stack_t stack{};
  stack.ss_sp = stack_.get();
  stack.ss_size = kHandlerStackBytes;
  sigaltstack(&stack, &old_stack_);
  struct sigaction action{};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // not blocked: the handler may never return
  for (int i = 0; i < 2; ++i) sigaction(kSignals[i], &action, &old_actions[i]);
}

FaultHandler::~FaultHandler() {
  for (int i = 0; i < 2; ++i) sigaction(kSignals[i], &old_actions[i], nullptr);
  sigaltstack(&old_stack_, nullptr);
}

}  // namespace lowbit::emulated
