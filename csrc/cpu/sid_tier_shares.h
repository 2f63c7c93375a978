// Counts as fractions of a history, in the reference's bits.
#pragma once

#include <cstdint>

#include "../common/simd.h"

namespace glass {

// out = counts / divisor, rounded as if divided in double and then rounded to float.
GLASS_INLINE void write_shares(const uint32_t* __restrict counts, int64_t size, int64_t divisor,
                               float* __restrict out) {
  if (divisor <= 1 << 24) {
    // exact operands: the float quotient is the rounded double one, since 53 >= 2 * 24 + 2
    const float by = static_cast<float>(divisor);
    for (int64_t i = 0; i < size; ++i) {
      out[i] = static_cast<float>(static_cast<int32_t>(counts[i])) / by;
    }
  } else {
    const double by = static_cast<double>(divisor);
    for (int64_t i = 0; i < size; ++i) out[i] = static_cast<float>(counts[i] / by);
  }
}

}  // namespace glass
