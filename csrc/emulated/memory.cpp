#include "emulated/memory.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "emulated/buffers.h"
#include "emulated/execution.h"
#include "emulated/shared.h"

namespace lowbit::emulated {
namespace {

constexpr size_t kCopyBytes = 16;

struct Copy {
  char* destination;
  unsigned char data[kCopyBytes];
  uint32_t group;
};

struct Copies {
  std::vector<Copy> under_way;  // oldest first
  uint32_t group = 0;           // that the next copy belongs to
};

Copies copies[kMaxThreads];

}  // namespace

void check_aligned(const void* address, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % kCopyBytes == 0) return;
  const Buffer* const buffer = find_buffer(address);
  if (buffer == nullptr) fail_thread("misaligned: %s at address %p; it takes multiples of 16", what, address);
  fail_thread("misaligned: %s at byte %td of a %s of %zu bytes; it takes multiples of 16", what,
              static_cast<const char*>(address) - buffer->data, buffer->kind, buffer->bytes);
}

uint4 load_16(const uint4* source, const char* name) {
  check_aligned(source, name);
  if (is_shared(source, kCopyBytes)) fail_thread("%s from shared memory", name);
  return *source;
}

void cp_async_16(void* shared, const void* global, bool valid) {
  check_aligned(shared, "destination of cp_async_16");
  if (!is_shared(shared, kCopyBytes))
    fail_thread("cp_async_16 to address %p, which is no shared memory", shared);
  Copies& own = copies[thread_rank()];
  Copy copy{static_cast<char*>(shared), {}, own.group};
  if (valid) {
    check_aligned(global, "source of cp_async_16");
    if (is_shared(global, kCopyBytes)) fail_thread("cp_async_16 from shared memory");
    std::memcpy(copy.data, global, kCopyBytes);
  }
  std::memset(shared, kPoison, kCopyBytes);
  own.under_way.push_back(copy);
}

void cp_async_commit() {
  ++copies[thread_rank()].group;
}

void cp_async_wait(unsigned pending) {
  Copies& own = copies[thread_rank()];
  size_t arrived = 0;
  while (arrived < own.under_way.size() && own.under_way[arrived].group + pending < own.group) {
    const Copy& copy = own.under_way[arrived++];
    std::memcpy(copy.destination, copy.data, kCopyBytes);
  }
  own.under_way.erase(own.under_way.begin(), own.under_way.begin() + static_cast<ptrdiff_t>(arrived));
}

void forget_copies(unsigned thread_rank) {
  copies[thread_rank].under_way.clear();
  copies[thread_rank].group = 0;
}

}  // namespace lowbit::emulated
