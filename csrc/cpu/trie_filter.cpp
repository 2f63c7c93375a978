// Lists of trie nodes that stand for the items a request must not, or alone may, get: the leaves of
// its items, sorted, and their parents level by level. Nothing is of the size of the trie.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>

#include "trie_arrays.h"

namespace glass {
namespace {

// Jagged item ids of all requests, and where each item is.
struct ItemLists {
  Tensor items, offsets;
  bool is_int;
  int64_t requests;

  ItemLists(const Tensor& ids, const Tensor& bounds) : items(packed(ids)), offsets(packed(bounds)) {
    check_cpu(items, "item_ids", 1);
    check_cpu(offsets, "offsets", 1);
    is_int = items.scalar_type() == ScalarType::Int;
    STD_TORCH_CHECK(is_int || items.scalar_type() == ScalarType::Long,
                    "item_ids must be int32 or int64");
    STD_TORCH_CHECK(offsets.scalar_type() == ScalarType::Long && offsets.numel() >= 1,
                    "offsets must be int64 and not empty");
    requests = offsets.numel() - 1;
    check_offsets(offsets.const_data_ptr<int64_t>(), requests, items.numel());
  }
};

// leaf << 32 | item of the trie's items in a request's list, each once and rising.
template <typename Id>
void sort_list(const ItemLists& lists, int64_t request, const int32_t* leaf_of_item, int64_t size,
               std::vector<uint64_t>& keys) {
  keys.clear();
  const Id* ids = lists.items.const_data_ptr<Id>();
  const int64_t* bounds = lists.offsets.const_data_ptr<int64_t>();
  for (int64_t i = bounds[request]; i < bounds[request + 1]; ++i) {
    const auto item =
        static_cast<uint64_t>(static_cast<int64_t>(ids[i]));  // a negative one is huge
    STD_TORCH_CHECK(item < static_cast<uint64_t>(size), "item_ids must be in [0, ", size, ")");
    const int32_t leaf = leaf_of_item[item];
    if (leaf >= 0) keys.push_back(static_cast<uint64_t>(leaf) << 32 | item);
  }
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
}

void sort_any_list(const std::optional<ItemLists>& lists, int64_t request, const Tensor& leaves,
                   std::vector<uint64_t>& keys) {
  const int32_t* leaf = leaves.const_data_ptr<int32_t>();
  if (lists->is_int) {
    sort_list<int32_t>(*lists, request, leaf, leaves.numel(), keys);
  } else {
    sort_list<int64_t>(*lists, request, leaf, leaves.numel(), keys);
  }
}

// The parent of a child, found from that of a smaller one: steps that double, then bisection.
int64_t find_parent(const TrieLevel& level, int64_t child, int64_t parent) {
  const int32_t* starts = level.offsets;
  int64_t step = 1;
  while (parent + step < level.parents && starts[parent + step] <= child) {
    parent += step;
    step *= 2;
  }
  const int64_t stop = std::min(parent + step, level.parents);
  return std::upper_bound(starts + parent + 1, starts + stop, child) - starts - 1;
}

// Parents of the rising nodes; all of them, or with `whole` those whose children are all there.
void rise(const TrieLevel& level, bool whole, const std::vector<int32_t>& nodes,
          std::vector<int32_t>& parents) {
  parents.clear();
  int64_t parent = 0;
  for (size_t i = 0; i < nodes.size();) {
    parent = find_parent(level, nodes[i], parent);
    const int32_t stop = level.offsets[parent + 1];
    size_t next = i + 1;
    while (next < nodes.size() && nodes[next] < stop) ++next;
    const auto found = static_cast<int32_t>(next - i);
    if (!whole || found == stop - level.offsets[parent]) {
      parents.push_back(static_cast<int32_t>(parent));
    }
    i = next;
  }
}

// The leaves of sorted keys; all of them, or with `whole` those whose items are all there.
void find_leaves(const TrieLevel& items, bool whole, const std::vector<uint64_t>& keys,
                 std::vector<int32_t>& leaves) {
  leaves.clear();
  for (size_t i = 0; i < keys.size();) {
    const auto leaf = static_cast<int64_t>(keys[i] >> 32);
    STD_TORCH_CHECK(leaf < items.parents, "leaf_of_item must be leaves of the trie");
    size_t next = i + 1;
    while (next < keys.size() && static_cast<int64_t>(keys[next] >> 32) == leaf) ++next;
    const auto found = static_cast<int32_t>(next - i);
    if (!whole || found == items.offsets[leaf + 1] - items.offsets[leaf]) {
      leaves.push_back(static_cast<int32_t>(leaf));
    }
    i = next;
  }
}

// offsets [B + 1] int64 of every level, then nodes int32 of every level. codes are those of a trie;
// leaf_of_item [ids] is -1 for an item that it does not hold.
std::vector<Tensor> trie_filter(const std::vector<Tensor>& offsets,
                                const std::vector<Tensor>& codes, const Tensor& leaf_of_item,
                                const std::optional<Tensor>& excluded,
                                const std::optional<Tensor>& excluded_offsets,
                                const std::optional<Tensor>& allowed,
                                const std::optional<Tensor>& allowed_offsets) {
  const Trie trie = read_trie(offsets, codes);
  check_cpu(leaf_of_item, "leaf_of_item", 1);
  STD_TORCH_CHECK(leaf_of_item.scalar_type() == ScalarType::Int, "leaf_of_item must be int32");
  const Tensor leaves = packed(leaf_of_item);
  std::optional<ItemLists> removes, keeps;
  if (excluded && excluded_offsets) removes.emplace(*excluded, *excluded_offsets);
  if (allowed && allowed_offsets) keeps.emplace(*allowed, *allowed_offsets);
  STD_TORCH_CHECK(removes || keeps, "a filter needs excluded or allowed items");
  const int64_t requests = (keeps ? keeps : removes)->requests;
  STD_TORCH_CHECK(!removes || removes->requests == requests,
                  "excluded and allowed must have the same number of requests");

  const auto levels = static_cast<int64_t>(trie.levels.size()) - 1;
  std::vector<std::vector<int32_t>> nodes(levels);
  std::vector<Tensor> results;
  std::vector<int64_t*> ends;
  for (int64_t level = 0; level < levels; ++level) {
    results.push_back(torch::stable::new_empty(leaves, {requests + 1}, ScalarType::Long));
    ends.push_back(results.back().mutable_data_ptr<int64_t>());
    *ends.back()++ = 0;
  }
  std::vector<uint64_t> keys, others, left;
  std::vector<int32_t> here, parents;
  for (int64_t request = 0; request < requests; ++request) {
    sort_any_list(keeps ? keeps : removes, request, leaves, keys);
    if (keeps && removes) {
      sort_any_list(removes, request, leaves, others);
      left.clear();
      std::set_difference(keys.begin(), keys.end(), others.begin(), others.end(),
                          std::back_inserter(left));
      std::swap(keys, left);
    }
    find_leaves(trie.levels[levels], !keeps, keys, here);
    for (int64_t level = levels - 1; level >= 0; --level) {
      nodes[level].insert(nodes[level].end(), here.begin(), here.end());
      *ends[level]++ = static_cast<int64_t>(nodes[level].size());
      rise(trie.levels[level], !keeps, here, parents);
      std::swap(here, parents);
    }
  }
  for (const auto& list : nodes) results.push_back(ints_of(leaves, list));
  return results;
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) { m.impl("trie_filter", TORCH_BOX(&glass::trie_filter)); }
