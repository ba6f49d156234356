// A fibre: a stack of its own and a place in the code, entered and left by switch_fibre().
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace lowbit::emulated {

struct Fibre {
  void* stack = nullptr;  // lowest address; null: the thread of the host that everything started on
  size_t stack_bytes = 0;
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context{};
#endif
  void* sanitizer_stack = nullptr;  // AddressSanitizer's own notes on a fibre that is not running
  bool has_frames = false;          // left there where it was abandoned
};

// Makes `fibre` start at `entry`, which never returns, when it is switched to. What it did before is
// forgotten.
void prepare_fibre(Fibre& fibre, void (*entry)());

// Leaves `from` and goes on in `to`; returns when somebody switches to `from` again. `final`: nobody will.
void switch_fibre(Fibre& from, Fibre& to, bool final = false);

// To be called first thing in a fibre's entry, and where all that it called has returned.
void fibre_entered();
void fibre_returned(Fibre& fibre);

}  // namespace lowbit::emulated
