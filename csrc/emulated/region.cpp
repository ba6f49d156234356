#include "emulated/region.h"

#include <sys/mman.h>
#include <unistd.h>

#include "cuda/error.h"

namespace lowbit::emulated {

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

Region map_region(size_t at_least) {
  const size_t page = page_bytes();
  const size_t bytes = (at_least + page - 1) / page * page;
  void* const whole =
      mmap(nullptr, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (whole == MAP_FAILED)
    throw Error(LOWBIT_OUT_OF_MEMORY, "no memory for %zu bytes of the device", at_least);
  char* const usable = static_cast<char*>(whole) + page;
  if (bytes != 0 && mprotect(usable, bytes, PROT_READ | PROT_WRITE) != 0) {
    munmap(whole, bytes + 2 * page);
    throw Error(LOWBIT_OUT_OF_MEMORY, "no memory for %zu bytes of the device", at_least);
  }
  return {usable, bytes};
}

void unmap_region(const Region& region) {
  munmap(region.usable - page_bytes(), region.bytes + 2 * page_bytes());
}

}  // namespace lowbit::emulated
