#include "emulated/shared.h"

#include <vector>

#include "cuda/error.h"
#include "emulated/buffers.h"
#include "emulated/execution.h"

namespace lowbit::emulated {
namespace {

constexpr size_t kAlignment = 16;

Buffer dynamic;
size_t limit = kSharedLimit;
std::vector<const Buffer*> in_use;  // arrays that the running block has come to
size_t static_bytes = 0;            // their size

void check_margins(const Buffer& buffer) {
  ptrdiff_t offset = 0;
  if (!buffer.overwritten(&offset)) return;
  throw Error(LOWBIT_DEVICE_FAILED,
              "out of bounds: block (%u, %u, %u) wrote byte %td of a %s of %zu bytes, %s", blockIdx.x,
              blockIdx.y, blockIdx.z, offset, buffer.kind, buffer.bytes,
              offset < 0 ? "before its start" : "past its end");
}

bool contains(const Buffer& buffer, const char* begin, size_t bytes) {
  return begin >= buffer.data && begin + bytes <= buffer.data + buffer.bytes;
}

}  // namespace

char* SharedArray::get(size_t bytes) {
  if (block_ == block_serial()) return buffer_->data;
  if (buffer_ == nullptr) {
    buffer_ = new Buffer(make_buffer("shared array", bytes, kAlignment, false));
    enter_buffer(buffer_);
  }
  buffer_->poison();
  block_ = block_serial();
  in_use.push_back(buffer_);
  static_bytes += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (static_bytes > kStaticSharedLimit || static_bytes + dynamic.bytes > limit) {
    fail_thread(
        "the block has %zu bytes of static and %zu of dynamic shared memory; allowed: %zu of the former, %zu "
        "of both",
        static_bytes, dynamic.bytes, kStaticSharedLimit, limit);
  }
  return buffer_->data;
}

char* dynamic_shared() {
  return dynamic.data;
}

bool is_shared(const void* address, size_t bytes) {
  const auto* const begin = static_cast<const char*>(address);
  if (contains(dynamic, begin, bytes)) return true;
  for (const Buffer* buffer : in_use) {
    if (contains(*buffer, begin, bytes)) return true;
  }
  return false;
}

void set_shared_limit(size_t bytes) {
  const std::lock_guard lock(device_mutex());
  limit = bytes;
}

void prepare_dynamic_shared(size_t bytes) {
  if (bytes > limit) {
    throw Error(LOWBIT_DEVICE_FAILED,
                "kernel launch failed: %zu bytes of dynamic shared memory; allowed: %zu on this device",
                bytes, limit);
  }
  if (dynamic.data != nullptr) {
    if (dynamic.bytes == bytes) return;
    leave_buffer(dynamic);
    unmap_region(dynamic.region);
    dynamic = {};
  }
  dynamic = make_buffer("dynamic shared memory", bytes, kAlignment, false);
  enter_buffer(&dynamic);
}

void enter_block_shared() {
  in_use.clear();
  static_bytes = 0;
  dynamic.poison();
}

void check_block_shared() {
  check_margins(dynamic);
  for (const Buffer* buffer : in_use) check_margins(*buffer);
}

}  // namespace lowbit::emulated
