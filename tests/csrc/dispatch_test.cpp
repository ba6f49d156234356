// Every instruction set has the tables of its own vectors, whatever this machine can run. A family that knows
// nothing of a level would answer with the scalar one: right, and many times slower.
#include <cstdio>
#include <initializer_list>

#include "core/cpu_features.h"
#include "cpu/activations/activations.h"
#include "cpu/attention/attention.h"
#include "cpu/bits/bits.h"
#include "cpu/codebook/codebook.h"

namespace {

using namespace lowbit;

int failures = 0;

void check(bool ok, const char* family, Isa isa, const char* what) {
  if (ok) return;
  ++failures;
  std::printf("%s: the table of %s %s\n", family, isa_name(isa), what);
}

template <class Table>
void check_not_scalar(const char* family, const Table& (*table)(lowbit_isa), Isa isa) {
  check(&table(isa) != &table(LOWBIT_ISA_SCALAR), family, isa, "is the scalar one");
}

}  // namespace

int main() {
#if defined(__x86_64__)
  for (const Isa isa : {LOWBIT_ISA_AVX2, LOWBIT_ISA_AVX_VNNI, LOWBIT_ISA_AVX512, LOWBIT_ISA_AMX}) {
    check_not_scalar("codebook", codebook_kernels, isa);
#else
  for (const Isa isa : {LOWBIT_ISA_NEON}) {
#endif
    check_not_scalar("bits", bits_kernels, isa);
    check_not_scalar("attention", attention_kernels, isa);
    check_not_scalar("activations", activation_kernels, isa);
  }
#if defined(LOWBIT_AMX)
  const Isa amx = LOWBIT_ISA_AMX, vectors = vectors_of(amx);
  check(&attention_kernels(amx) == &attention_kernels(vectors), "attention", amx, "is one of its own");
  check(&activation_kernels(amx) == &activation_kernels(vectors), "activations", amx, "is one of its own");
  check(&bits_kernels(amx) != &bits_kernels(vectors), "bits", amx, "has no tiles");
  check(codebook_kernels(amx).pieces != nullptr, "codebook", amx, "has no tiles");
  check(codebook_kernels(amx).dense == codebook_kernels(vectors).dense, "codebook", amx, "has other vectors");
#endif
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
