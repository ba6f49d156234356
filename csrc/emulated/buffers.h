// Guarded memory: a buffer touches a page without access on one side, and what is left of its page on the
// other is filled with a pattern that is looked at after the kernel.
//
//   at the end (default)     | no access | pattern .. | buffer | < alignment: pattern | no access |
//   at the front             | no access | buffer | pattern ..                        | no access |
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "emulated/region.h"

namespace lowbit::emulated {

struct Buffer {
  Region region;
  char* data = nullptr;
  size_t bytes = 0;
  const char* kind = "";  // "buffer" or "shared array"

  // Fills everything, or everything around the data, with the pattern.
  void poison();
  void poison_margins();
  // Offset from `data` of a byte around the data that was overwritten; false where there is none.
  bool overwritten(ptrdiff_t* offset) const;
};

Buffer make_buffer(const char* kind, size_t bytes, size_t alignment, bool at_front);

// ---- Device memory
// ----------------------------------------------------------------------------------------------

char* allocate(size_t bytes, size_t alignment, bool at_front);
void release(void* data);

// What find_buffer() knows; allocate() and release() see to it themselves.
void enter_buffer(Buffer* buffer);
void leave_buffer(const Buffer& buffer);

// The buffer whose region or guard pages hold `address`, or null.
const Buffer* find_buffer(const void* address);

// Finds what a kernel wrote beside a buffer without touching the page that nothing may touch: the description
// of the first such byte, or "". The margins are as good as new afterwards.
std::string repair_margins();

}  // namespace lowbit::emulated
