// A trie without some of its items. From the items upwards: what is kept of a level is counted,
// and a parent is kept if the count rises over its children. Nothing is sorted, and no branch
// depends on what is kept.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>

#include "trie_arrays.h"

namespace glass {
namespace {

constexpr int64_t kChecked = 1024;  // offsets that are checked before they are used, in the cache

using Counts = std::unique_ptr<int32_t[]>;

// kept entries before each of [count + 1]; false if an id is outside of the mask.
bool count_items(const TrieLevel& items, const bool* mask, int64_t mask_size, int32_t* before) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < items.children; ++i) {
    largest = std::max(largest, static_cast<uint32_t>(items.codes[i]));
  }
  if (largest >= mask_size) return false;
  int32_t sum = before[0] = 0;
  for (int64_t i = 0; i < items.children; ++i) before[i + 1] = sum += mask[items.codes[i]];
  return true;
}

// kept parents before each, of the kept children before each.
void count_parents(const TrieLevel& level, const int32_t* before, int32_t* parents_before) {
  int32_t sum = parents_before[0] = 0, last = 0;
  for (int64_t begin = 0; begin < level.parents; begin += kChecked) {
    const int64_t end = std::min(begin + kChecked, level.parents);
    check_ranges(level, begin, end);
    for (int64_t parent = begin; parent < end; ++parent) {
      const int32_t bound = before[level.offsets[parent + 1]];
      parents_before[parent + 1] = sum += bound > last;
      last = bound;
    }
  }
}

// Entries of values [count] that are kept. Each is written, and the next kept one overwrites it.
Tensor keep(const Tensor& like, const int32_t* values, const int32_t* before, int64_t count) {
  Tensor result = new_ints(like, before[count]);
  int32_t* out = result.mutable_data_ptr<int32_t>();
  while (count > 0 && before[count] == before[count - 1])
    --count;  // no slot is left after the last
  for (int64_t i = 0; i < count; ++i) out[before[i]] = values[i];
  return result;
}

// The kept parents' offsets among the kept children.
Tensor keep_offsets(const Tensor& like, const TrieLevel& level, const int32_t* before,
                    const int32_t* parents_before) {
  int64_t count = level.parents;
  Tensor result = new_ints(like, parents_before[count] + 1);
  int32_t* out = result.mutable_data_ptr<int32_t>();
  while (count > 0 && parents_before[count] == parents_before[count - 1]) --count;
  out[0] = 0;
  for (int64_t i = 0; i < count; ++i) {
    out[parents_before[i] + 1] = before[level.offsets[i + 1]];
  }
  return result;
}

// offsets and codes of every level, then the most children of each level's parents. An empty tensor
// and a 0 are what does not change. Nothing at all if no item is kept. kept is bool [ids].
std::vector<Tensor> trie_restrict(const std::vector<Tensor>& offsets,
                                  const std::vector<Tensor>& codes, const Tensor& kept) {
  const Trie trie = read_trie(offsets, codes);
  check_cpu(kept, "kept", 1);
  STD_TORCH_CHECK(kept.scalar_type() == ScalarType::Bool, "kept must be bool");
  const Tensor mask = packed(kept);
  const auto depth = static_cast<int64_t>(trie.levels.size());
  int64_t largest = 0;
  for (const TrieLevel& level : trie.levels) largest = std::max(largest, level.children);
  Counts before(new int32_t[largest + 1]), above(new int32_t[largest + 1]);
  STD_TORCH_CHECK(
      count_items(trie.levels[depth - 1], mask.const_data_ptr<bool>(), mask.numel(), before.get()),
      "kept must have an entry for every item id");
  if (before[trie.levels[depth - 1].children] == 0) return {};

  const Tensor& like = offsets[0];
  std::vector<Tensor> results(2 * depth, new_ints(like, 0));
  std::vector<int32_t> most(depth - 1, 0);
  for (int64_t at = depth - 1; at >= 0; --at) {
    const TrieLevel& level = trie.levels[at];
    if (before[level.children] == level.children) break;  // then nothing above changes either
    count_parents(level, before.get(), above.get());
    results[at] = keep_offsets(like, level, before.get(), above.get());
    results[depth + at] = keep(like, level.codes, before.get(), level.children);
    if (at < depth - 1) {
      most[at] = widest(results[at].const_data_ptr<int32_t>(), results[at].numel() - 1);
    }
    std::swap(before, above);
  }
  results.push_back(ints_of(like, most));
  return results;
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("trie_restrict", TORCH_BOX(&glass::trie_restrict));
}
