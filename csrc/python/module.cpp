// lowbit._native: what needs no torch. Packing, capabilities, and the kernels on NumPy arrays.
#include <pybind11/stl.h>

#include "cpu/codebook/pieces.h"
#include "python/linear.h"
#include "python/packing.h"

namespace lowbit::python {
namespace {

constexpr lowbit_isa kIsas[] = {LOWBIT_ISA_SCALAR, LOWBIT_ISA_AVX2, LOWBIT_ISA_AVX_VNNI,
                                LOWBIT_ISA_AVX512, LOWBIT_ISA_AMX,  LOWBIT_ISA_NEON};

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (lowbit_isa isa : kIsas) {
    if (lowbit_isa_available(isa)) names.emplace_back(lowbit_isa_name(isa));
  }
  return names;
}

std::string current_isa() {
  lowbit_isa isa;
  check(lowbit_get_isa(&isa));
  return lowbit_isa_name(isa);
}

void set_isa(const std::string& name) {
  for (lowbit_isa isa : kIsas) {
    if (name == lowbit_isa_name(isa)) return check(lowbit_set_isa(isa));
  }
  raise("BackendError", "unknown instruction set", py::str(name), py::cast(available_isas()));
}

py::object isa_refusal() {
  const char* const reason = lowbit_isa_refusal();
  return reason == nullptr ? py::none() : py::object(py::str(reason));
}

uint64_t read(const std::vector<py::array>& arrays, int32_t accumulators, int64_t prefetch_bytes) {
  std::vector<lowbit_span> spans;
  for (const py::array& array : arrays) {
    if ((array.flags() & py::array::c_style) == 0) raise("ShapeError", "an array to read is not contiguous");
    spans.push_back({array.data(), array.nbytes()});
  }
  uint64_t sum = 0;
  check(lowbit_read(spans.data(), static_cast<int32_t>(spans.size()), accumulators, prefetch_bytes, &sum));
  return sum;
}

lowbit_dtype dtype_of(const std::string& name) {
  if (name == "float32") return LOWBIT_F32;
  if (name == "float16") return LOWBIT_F16;
  if (name == "bfloat16") return LOWBIT_BF16;
  raise("DtypeError", "unknown dtype", py::str(name), py::str("float32, float16, bfloat16"));
}

int64_t codebook_tile_tokens(const std::string& kind, const std::string& x, const std::string& tables,
                             const std::string& precision, int32_t axis) {
  const lowbit_dtype x_dtype = dtype_of(x), tables_dtype = dtype_of(tables);
  const lowbit_precision level = precision_of(precision);
  int32_t pieces;
  if (kind == "codebook_channel") {
    pieces = codebook::channel_pieces(x_dtype, level, tables_dtype, axis);
  } else if (kind == "codebook_scalar") {
    pieces = codebook::scalar_pieces(level, tables_dtype);
  } else if (kind == "codebook_vector") {
    pieces = codebook::vector_pieces(x_dtype, level, tables_dtype);
  } else {
    raise("ValueRangeError", "unknown kind", py::str(kind),
          py::str("codebook_channel, codebook_scalar, codebook_vector"));
  }
  return pieces > 0 ? codebook::kPanelTokens : 0;
}

void set_num_threads(int32_t threads) {
  if (threads < 0) raise("ValueRangeError", "threads must not be negative", py::int_(threads));
  lowbit_set_num_threads(threads);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Native CPU kernels without torch: packing, capabilities, and products on NumPy arrays.";
  m.def("version", &lowbit_version, "Version of the native library.");

  m.def("available_isas", &available_isas, "Instruction sets this machine can run, slowest first.");
  m.def("current_isa", &current_isa,
        "Instruction set in use: the best of the machine, or the one LOWBIT_CPU_ISA or set_isa() asks for.");
  m.def("set_isa", &set_isa, py::arg("name"),
        "Forces an instruction set; BackendError if the machine lacks it.");
  m.def("isa_refusal", &isa_refusal,
        "Why the operating system keeps the best instruction set from being chosen; None: it does not.");
  m.def("tile_columns", &lowbit_tile_columns, py::arg("active_bits"),
        "Columns of activations from which the instruction set in use multiplies so many planes in tile "
        "registers; 0: never.");
  m.def("codebook_tile_tokens", &codebook_tile_tokens, py::arg("kind"), py::arg("x_dtype"),
        py::arg("tables_dtype"), py::arg("precision"), py::arg("axis") = 0,
        "Tokens from which a codebook layer may be multiplied in tile registers where the machine has them;\n"
        "0: never. kind is 'codebook_channel', 'codebook_scalar' or 'codebook_vector', dtypes are "
        "'float32', 'float16'\nor 'bfloat16'.");
  m.def("num_threads", &lowbit_get_num_threads, "Threads used by the next calls.");
  m.def("set_num_threads", &set_num_threads, py::arg("threads"),
        "Sets the number of threads; 0 is one per available core.");

  m.def("read", &read, py::arg("arrays"), py::kw_only(), py::arg("accumulators") = 4,
        py::arg("prefetch_bytes") = 0,
        "Reads all bytes of C-contiguous arrays once and returns their exclusive or: the floor of a "
        "kernel's time.\n"
        "accumulators: 1, 4 or 8 chains of loads; prefetch_bytes: how far ahead lines are asked for.");

  m.def("pack_signs", &pack_signs, py::arg("values"),
        "bool or float32 [N, K] -> uint8 [N, ceil(K / 8)]: bit k % 8 of byte k // 8 is set where the value "
        "is True or\n"
        ">= 0. NaN raises ValueRangeError.");
  m.def("unpack_signs", &unpack_signs, py::arg("packed"), py::arg("in_features"),
        "uint8 [N, ceil(K / 8)] -> int8 [N, K] of -1 and +1. Padding bits that are not zero raise "
        "FormatError.");
  m.def("tile_bits", &tile_bits, py::arg("packed"), py::arg("in_features"),
        "uint8 [N, ceil(K / 8)], or [B, N, ceil(K / 8)] for B planes, -> the kernels' tiles, uint8\n"
        "[ceil(N / 64), B, ceil(K / 32), 64, 4].");
  m.def("tile_scales", &tile_scales, py::arg("scales"),
        "float32, float16 or int16 [N, G] -> [ceil(N / 64), G, 64], padding rows 0.");

  m.def("quantize_activations", &quantize_activations, py::arg("x"), py::arg("precision") = "fast",
        py::kw_only(), py::arg("activation_bits") = 0,
        "What the products see of float32 or float16 x [M, K]: codes int32 [M, K], scales float32 [M, "
        "groups].\n"
        "activation_bits 1 to 8 gives bipolar codes; else precision 'fast' or 'high'.");
  m.def(
      "signs_prologue", &signs_prologue, py::arg("x"), py::arg("router"), py::arg("in_scales"),
      "Gates float32 [M, E] = softmax(x @ router^T) and z [M, K] = x * (gates @ in_scales), as signs_linear\n"
      "computes them before it quantises z. One expert needs no router (None).");

  m.def(
      "signs_linear", &signs_linear, py::arg("x"), py::arg("tiles"), py::arg("out_features"), py::kw_only(),
      py::arg("scales") = py::none(), py::arg("group_size") = -1, py::arg("router") = py::none(),
      py::arg("in_scales") = py::none(), py::arg("out_scales") = py::none(), py::arg("bias") = py::none(),
      py::arg("precision") = "fast",
      "y [M, N] = (((x * in_mix) B^T) * out_mix) + bias for float32 or float16 x [M, K] and tiles of signs.\n"
      "The mixes are gates @ in_scales [E, K] and gates @ out_scales [E, N], gates = softmax(x @ router^T).");
  m.def("planes_linear", &planes_linear, py::arg("x"), py::arg("tiles"), py::arg("out_features"),
        py::arg("scales"), py::kw_only(), py::arg("group_size") = -1, py::arg("offsets") = py::none(),
        py::arg("active_bits") = py::none(), py::arg("activation_bits") = 0, py::arg("bias") = py::none(),
        py::arg("precision") = "fast",
        "y [M, N] = x W^T + bias for float32 or float16 x [M, K] and tiles of bit planes, w = scales * (v + "
        "offsets).\n"
        "activation_bits 1 to 8 quantises the activations to bipolar codes; active_bits reads only the first "
        "planes.");
}

}  // namespace lowbit::python
