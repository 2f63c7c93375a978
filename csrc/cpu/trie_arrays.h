// The tensors of a trie as its operators take and return them.
//
// L + 1 levels: level l < L leads from the nodes of depth l to those of depth l + 1, whose codes it
// holds; level L leads from the leaves to the items, whose "codes" are their ids. The children of
// parent p are entries offsets[p] : offsets[p + 1] of the codes, which rise among them.
#pragma once

#include <algorithm>
#include <vector>

#include "../common/checks.h"

namespace glass {

struct TrieLevel {
  const int32_t* offsets;  // [parents + 1]
  const int32_t* codes;    // [children]
  int64_t parents, children;
};

// Tensors are held here, so that the pointers of levels stay good.
struct Trie {
  std::vector<Tensor> held;
  std::vector<TrieLevel> levels;
};

// Levels of offsets and codes, L + 1 tensors each, of sizes that fit together. What offsets hold is
// for each kernel to check before it reads there.
inline Trie read_trie(const std::vector<Tensor>& offsets, const std::vector<Tensor>& codes) {
  STD_TORCH_CHECK(offsets.size() == codes.size() && offsets.size() >= 2,
                  "offsets and codes must be of the same levels, two or more");
  Trie trie;
  int64_t parents = 1;
  for (size_t level = 0; level < offsets.size(); ++level) {
    for (const Tensor& tensor : {offsets[level], codes[level]}) {
      check_cpu(tensor, "offsets and codes", 1);
      STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Int, "offsets and codes must be int32");
      trie.held.push_back(packed(tensor));
    }
    const Tensor &starts = trie.held[2 * level], &values = trie.held[2 * level + 1];
    const int64_t children = values.numel();
    STD_TORCH_CHECK(starts.numel() == parents + 1 && children >= 1 && children <= INT32_MAX,
                    "offsets must have one entry more than there are parents, and all children");
    trie.levels.push_back(
        {starts.const_data_ptr<int32_t>(), values.const_data_ptr<int32_t>(), parents, children});
    parents = children;
  }
  return trie;
}

// The children of parents begin : end are a range each, and in order.
inline void check_ranges(const TrieLevel& level, int64_t begin, int64_t end) {
  const int32_t* starts = level.offsets;
  int32_t wrong = starts[begin] < 0 || starts[end] > level.children;
  for (int64_t parent = begin; parent < end; ++parent) wrong |= starts[parent] > starts[parent + 1];
  STD_TORCH_CHECK(!wrong, "offsets must rise from 0 to the number of children");
}

// Most children of one parent.
inline int32_t widest(const int32_t* offsets, int64_t parents) {
  int32_t most = 0;
  for (int64_t parent = 0; parent < parents; ++parent) {
    most = std::max(most, offsets[parent + 1] - offsets[parent]);
  }
  return most;
}

inline Tensor new_ints(const Tensor& like, int64_t count) {
  return torch::stable::new_empty(like, {count}, ScalarType::Int);
}

inline Tensor ints_of(const Tensor& like, const std::vector<int32_t>& values) {
  Tensor result = new_ints(like, values.size());
  std::copy(values.begin(), values.end(), result.mutable_data_ptr<int32_t>());
  return result;
}

}  // namespace glass
