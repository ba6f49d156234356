// Memory between two pages that no access survives.
#pragma once

#include <cstddef>

namespace lowbit::emulated {

constexpr unsigned char kPoison = 0xCB;  // what nobody has written yet

//   | no access |  usable: a whole number of pages  | no access |
struct Region {
  char* usable = nullptr;
  size_t bytes = 0;
};

Region map_region(size_t at_least);  // throws lowbit::Error; zeros
void unmap_region(const Region& region);
size_t page_bytes();

}  // namespace lowbit::emulated
