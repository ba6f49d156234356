#include "emulated/buffers.h"

#include <bit>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "cuda/error.h"
#include "emulated/execution.h"

namespace lowbit::emulated {
namespace {

// By the first address of the region; guarded by device_mutex().
std::map<const char*, Buffer*> buffers;
std::map<const char*, std::unique_ptr<Buffer>> allocated;  // by data

// First byte of [begin, end) that is not the pattern, or null.
const char* first_overwritten(const char* begin, const char* end) {
  for (; begin != end; ++begin) {
    if (static_cast<unsigned char>(*begin) != kPoison) return begin;
  }
  return nullptr;
}

}  // namespace

Buffer make_buffer(const char* kind, size_t bytes, size_t alignment, bool at_front) {
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  const Region region = map_region(rounded);
  char* const data = at_front ? region.usable : region.usable + region.bytes - rounded;
  Buffer buffer{region, data, bytes, kind};
  buffer.poison();
  return buffer;
}

void Buffer::poison() {
  std::memset(region.usable, kPoison, region.bytes);
}

bool Buffer::overwritten(ptrdiff_t* offset) const {
  const char* found = first_overwritten(region.usable, data);
  if (found == nullptr) found = first_overwritten(data + bytes, region.usable + region.bytes);
  if (found != nullptr) *offset = found - data;
  return found != nullptr;
}

void Buffer::poison_margins() {
  std::memset(region.usable, kPoison, data - region.usable);
  std::memset(data + bytes, kPoison, region.usable + region.bytes - data - bytes);
}

char* allocate(size_t bytes, size_t alignment, bool at_front) {
  if (!std::has_single_bit(alignment) || alignment > page_bytes()) {
    throw Error(LOWBIT_INVALID_ARGUMENT, "alignment %zu; allowed: powers of two up to %zu", alignment,
                page_bytes());
  }
  const std::lock_guard lock(device_mutex());
  auto buffer = std::make_unique<Buffer>(make_buffer("buffer", bytes, alignment, at_front));
  enter_buffer(buffer.get());
  char* const data = buffer->data;
  allocated[data] = std::move(buffer);
  return data;
}

void release(void* data) {
  const std::lock_guard lock(device_mutex());
  const auto found = allocated.find(static_cast<char*>(data));
  if (found == allocated.end()) throw Error(LOWBIT_INVALID_ARGUMENT, "%p is no device memory", data);
  const Region region = found->second->region;
  buffers.erase(region.usable);
  allocated.erase(found);
  unmap_region(region);
}

void enter_buffer(Buffer* buffer) {
  buffers[buffer->region.usable] = buffer;
}

void leave_buffer(const Buffer& buffer) {
  buffers.erase(buffer.region.usable);
}

const Buffer* find_buffer(const void* address) {
  const auto* const byte = static_cast<const char*>(address);
  const auto after = buffers.upper_bound(byte + page_bytes());  // the guard page in front counts
  if (after == buffers.begin()) return nullptr;
  const Buffer* const buffer = std::prev(after)->second;
  return byte < buffer->region.usable + buffer->region.bytes + page_bytes() ? buffer : nullptr;
}

std::string repair_margins() {
  std::string description;
  for (const auto& [data, buffer] : allocated) {
    ptrdiff_t offset = 0;
    if (!buffer->overwritten(&offset)) continue;
    buffer->poison_margins();
    if (!description.empty()) continue;
    char text[128];
    std::snprintf(text, sizeof(text), "byte %td of a %s of %zu bytes, %s", offset, buffer->kind,
                  buffer->bytes, offset < 0 ? "before its start" : "past its end");
    description = text;
  }
  return description;
}

}  // namespace lowbit::emulated
