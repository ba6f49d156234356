// Shared memory. Every array has guarded memory of its own, poisoned when a block first comes to it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit::emulated {

struct Buffer;

// A LOWBIT_SHARED declaration: one static object wherever the kernel's code declares the array.
class SharedArray {
 public:
  // The array of the running block.
  char* get(size_t bytes);

 private:
  Buffer* buffer_ = nullptr;
  uint64_t block_ = 0;  // whose contents it holds
};

char* dynamic_shared();

// Is [address, address + bytes) inside shared memory of the running block?
bool is_shared(const void* address, size_t bytes);

// ---- For the launch
// ---------------------------------------------------------------------------------------------

constexpr size_t kSharedLimit = 227 << 10;  // of a block, with dynamic memory (sm_90; 99 KB on sm_86 and 120)
constexpr size_t kStaticSharedLimit = 48 << 10;  // without

void set_shared_limit(size_t bytes);
void prepare_dynamic_shared(size_t bytes);  // throws where it exceeds the device's limit
void enter_block_shared();                  // poisons
void check_block_shared();                  // throws where a block wrote beside its arrays

}  // namespace lowbit::emulated

#define LOWBIT_SHARED(type, name, count)                             \
  static ::lowbit::emulated::SharedArray lowbit_shared_array_##name; \
  type(&name)[count] = *reinterpret_cast<type(*)[count]>(lowbit_shared_array_##name.get(sizeof(type[count])))
#define LOWBIT_DYNAMIC_SHARED(type, name) \
  type* const name = reinterpret_cast<type*>(::lowbit::emulated::dynamic_shared())
