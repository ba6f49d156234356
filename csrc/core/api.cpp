// The part of the C interface that concerns no format: version, errors, threads, instruction set.
#include "core/cpu_features.h"
#include "core/error.h"
#include "core/thread_pool.h"
#include "lowbit.h"

extern "C" {

const char* lowbit_version(void) {
  return LOWBIT_VERSION;
}
const char* lowbit_last_error(void) {
  return lowbit::last_error();
}

void lowbit_set_num_threads(int32_t threads) {
  lowbit::set_num_threads(threads);
}
int32_t lowbit_get_num_threads(void) {
  return lowbit::get_num_threads();
}
void lowbit_set_parallel_for(lowbit_parallel_for host) {
  lowbit::set_host_parallel_for(host);
}

int32_t lowbit_isa_available(lowbit_isa isa) {
  return lowbit::isa_available(isa) ? 1 : 0;
}
const char* lowbit_isa_name(lowbit_isa isa) {
  return lowbit::isa_name(isa);
}
lowbit_status lowbit_set_isa(lowbit_isa isa) {
  return lowbit::set_active_isa(isa);
}
const char* lowbit_isa_refusal(void) {
  return lowbit::isa_refusal();
}

lowbit_status lowbit_get_isa(lowbit_isa* isa) {
  if (isa == nullptr) return lowbit::fail(LOWBIT_INVALID_ARGUMENT, "lowbit_get_isa: isa is a null pointer");
  return lowbit::active_isa(isa);
}

}  // extern "C"
