// Grow-only aligned memory. Kernels keep one as `thread_local`, so the steady state allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace lowbit {

class Scratch {
 public:
  // One zmm register and one cache line; every array carved out of a Scratch starts on such a boundary.
  static constexpr size_t kAlignment = 64;

  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // At least `bytes` bytes of undefined content, valid until the next call; nullptr when memory is short
  // (what was held is gone then as well).
  std::byte* reserve(size_t bytes) noexcept {
    if (bytes <= size_) return data_;
    std::free(data_);
    // A quarter more than asked: prompts that lengthen token by token must not reallocate every time.
    size_ = align(bytes + bytes / 4);
    data_ = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size_));
    if (data_ == nullptr) size_ = 0;
    return data_;
  }

  static constexpr size_t align(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Lays several arrays out in one Scratch: first add() all of them, then reserve(size()), then at().
class ScratchLayout {
 public:
  // Returns the byte offset of an array of `count` T.
  template <typename T>
  size_t add(int64_t count) {
    const size_t offset = size_;
    size_ += Scratch::align(static_cast<size_t>(count) * sizeof(T));
    return offset;
  }
  size_t size() const { return size_; }

 private:
  size_t size_ = 0;
};

template <typename T>
T* at(std::byte* base, size_t offset) {
  return reinterpret_cast<T*>(base + offset);
}

}  // namespace lowbit
