// Staged activations one by one, for what does not multiply in matrices.
#pragma once

#include "cuda/codebook/scalar.h"

namespace lowbit::cuda::codebook {

// Inputs 4 quad .. 4 quad + 3 of a token as the products see them: scale times code. Beyond in_features they
// are 0 (or NaN, in a token that is NaN).
LOWBIT_DEVICE float4 load_quad(const Activations& x, int64_t token, int quad) {
  if (x.values != nullptr) {
    return *reinterpret_cast<const float4*>(x.values + token * x.values_stride + 4 * quad);
  }
  const Columns& columns = x.columns;
  // The order of cuda/activations/columns.h moves whole quads: 8 to a step, 2 to a lane t. The second column
  // of a token follows its first.
  const int step = quad / 8 % 4, t = quad / 2 % 4;
  const int offset = kHalfGroupBytes * (quad / 16) + 16 * t + 8 * (step % 2) + 4 * (quad % 2);
  const float scale = columns.scales_of(0, token)[columns.grouped() ? Columns::place_of(quad / 32) : 0];
  const int32_t per_token = columns.per_token;
  const int8_t* const codes = columns.codes_of(0, token * per_token) + offset;
  const uint32_t first = *reinterpret_cast<const uint32_t*>(codes);
  const uint32_t second = per_token == 2 ? *reinterpret_cast<const uint32_t*>(codes + kColumnBytes) : 0;
  const auto value = [&](int i) {
    const int high = static_cast<int8_t>(first >> (8 * i)), low = static_cast<int8_t>(second >> (8 * i));
    return scale * static_cast<float>(per_token == 2 ? 256 * high + low : high);
  };
  return {value(0), value(1), value(2), value(3)};
}

LOWBIT_DEVICE float load_activation(const Activations& x, int64_t token, int input) {
  const float4 quad = load_quad(x, token, input / 4);
  const int i = input % 4;
  return i == 0 ? quad.x : i == 1 ? quad.y : i == 2 ? quad.z : quad.w;
}

}  // namespace lowbit::cuda::codebook
