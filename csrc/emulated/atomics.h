// Atomic operations: threads of the emulated device switch at barriers and warp operations only, so any code
// between them is atomic.
#pragma once

#include <type_traits>

namespace lowbit::emulated {

template <class T>
concept AtomicInteger =
    std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>;

template <class T, class Function>
T update(T* address, const Function& function) {
  const T old = *address;
  *address = function(old);
  return old;
}

}  // namespace lowbit::emulated

// Sums wrap, as they do on the device.
template <lowbit::emulated::AtomicInteger T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  using Unsigned = std::make_unsigned_t<T>;
  return lowbit::emulated::update(address, [=](T old) {
    return static_cast<T>(static_cast<Unsigned>(old) + static_cast<Unsigned>(value));
  });
}
template <lowbit::emulated::AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return lowbit::emulated::update(address, [=](T old) { return old > value ? old : value; });
}
template <lowbit::emulated::AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return lowbit::emulated::update(address, [=](T old) { return old < value ? old : value; });
}
template <lowbit::emulated::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return lowbit::emulated::update(address, [=](T old) { return old | value; });
}
template <lowbit::emulated::AtomicInteger T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return lowbit::emulated::update(address, [=](T old) { return old & value; });
}
template <lowbit::emulated::AtomicInteger T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return lowbit::emulated::update(address, [=](T) { return value; });
}
template <lowbit::emulated::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return lowbit::emulated::update(address, [=](T old) { return old == compare ? value : old; });
}
// Up to and with `limit`, then from 0 again: how the last block of a grid is found.
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return lowbit::emulated::update(address, [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}
