// What hard search found, from tensors: checked, but for the ids themselves, which those that read
// them check.
#pragma once

#include "../common/checks.h"
#include "token_bags.h"

namespace glass {

inline void check_ids(const Tensor& tensor, const char* name, int64_t dims) {
  check_cpu(tensor, name, dims);
  STD_TORCH_CHECK(
      tensor.scalar_type() == ScalarType::Int || tensor.scalar_type() == ScalarType::Long, name,
      " must be int32 or int64");
}

// tokens [events, per event], positions [users, sets, most], lengths [users, sets]
inline void check_sets(const Tensor& tokens, const Tensor& positions, const Tensor& lengths,
                       int64_t users, int64_t sets) {
  check_ids(tokens, "tokens", 2);
  check_ids(positions, "positions", 3);
  check_ids(lengths, "lengths", 2);
  STD_TORCH_CHECK(positions.size(0) == users && positions.size(1) == sets &&
                      lengths.size(0) == users && lengths.size(1) == sets,
                  "positions and lengths must be of ", users, " users and ", sets, " sets");
}

// Of contiguous tensors.
inline Retrieved read_retrieved(const Tensor& tokens, const Tensor& positions,
                                const Tensor& lengths, int64_t num_tokens) {
  Retrieved result{positions.const_data_ptr(),
                   positions.scalar_type() == ScalarType::Long,
                   tokens.const_data_ptr(),
                   tokens.scalar_type() == ScalarType::Long,
                   std::vector<int64_t>(lengths.numel()),
                   positions.size(2),
                   tokens.size(0),
                   tokens.size(1),
                   num_tokens};
  const bool wide = lengths.scalar_type() == ScalarType::Long;
  for (int64_t set = 0; set < lengths.numel(); ++set) {
    const int64_t length =
        wide ? lengths.const_data_ptr<int64_t>()[set] : lengths.const_data_ptr<int32_t>()[set];
    STD_TORCH_CHECK(length >= 0 && length <= result.max_items, "lengths must be in [0, ",
                    result.max_items + 1, "), held ", length);
    result.lengths[set] = length;
  }
  return result;
}

inline void raise_fault(const BagFault& fault, const Retrieved& retrieved) {
  STD_TORCH_CHECK(fault.mistake != BagMistake::kTokens, "tokens must be in [0, ",
                  retrieved.num_tokens, "), held ", fault.held);
  STD_TORCH_CHECK(fault.mistake != BagMistake::kPositions, "positions must be in [-1, ",
                  retrieved.num_events, "), held ", fault.held);
}

}  // namespace glass
