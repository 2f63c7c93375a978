// Merges a small trie into a large one. The nodes that are new are found by bisection, parents
// first; everything between two of them is copied as it lies, with one number added to offsets.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "trie_arrays.h"

namespace glass {
namespace {

// Where the nodes of the added trie's depth are in the large trie.
struct Places {
  std::vector<int32_t> at;     // its own number there, or that of the node it comes before
  std::vector<bool> inserted;  // it is not there yet
  int64_t num_inserted = 0;
};

Places find_children(const TrieLevel& large, const TrieLevel& added, const Places& parents) {
  Places children;
  children.at.reserve(added.children);
  children.inserted.reserve(added.children);
  for (int64_t parent = 0; parent < added.parents; ++parent) {
    const int32_t at = parents.at[parent];
    check_ranges(large, at, at + !parents.inserted[parent]);
    const int32_t* low = large.codes + large.offsets[at];
    const int32_t* high = parents.inserted[parent] ? low : large.codes + large.offsets[at + 1];
    for (int32_t child = added.offsets[parent]; child < added.offsets[parent + 1]; ++child) {
      low = std::lower_bound(low, high, added.codes[child]);
      const bool inserted = low == high || *low != added.codes[child];
      const auto place = static_cast<int32_t>(low - large.codes);
      STD_TORCH_CHECK(children.at.empty() || children.at.back() <= place, "codes must rise");
      children.at.push_back(place);
      children.inserted.push_back(inserted);
      children.num_inserted += inserted;
    }
  }
  return children;
}

Tensor merge_codes(const Tensor& like, const TrieLevel& large, const TrieLevel& added,
                   const Places& children) {
  Tensor result = new_ints(like, large.children + children.num_inserted);
  int32_t* out = result.mutable_data_ptr<int32_t>();
  int64_t from = 0;
  for (int64_t child = 0; child < added.children; ++child) {
    if (!children.inserted[child]) continue;
    out = std::copy(large.codes + from, large.codes + children.at[child], out);
    *out++ = added.codes[child];
    from = children.at[child];
  }
  std::copy(large.codes + from, large.codes + large.children, out);
  return result;
}

Tensor merge_offsets(const Tensor& like, const TrieLevel& large, const TrieLevel& added,
                     const Places& parents, const Places& children) {
  Tensor result = new_ints(like, large.parents + parents.num_inserted + 1);
  int32_t* out = result.mutable_data_ptr<int32_t>();
  *out++ = 0;
  int32_t shift = 0;  // children inserted so far
  int64_t from = 0;   // parents of the large trie whose ends are written
  const auto copy_ends = [&](int64_t stop) {
    for (; from < stop; ++from) *out++ = large.offsets[from + 1] + shift;
  };
  for (int64_t parent = 0; parent < added.parents; ++parent) {
    const int32_t at = parents.at[parent];
    copy_ends(at);
    for (int32_t child = added.offsets[parent]; child < added.offsets[parent + 1]; ++child) {
      shift += children.inserted[child];
    }
    if (parents.inserted[parent]) *out++ = large.offsets[at] + shift;
  }
  copy_ends(large.parents);
  return result;
}

// The most children of a parent that got some.
int32_t widest_changed(const TrieLevel& large, const TrieLevel& added, const Places& parents,
                       const Places& children) {
  int32_t most = 0;
  for (int64_t parent = 0; parent < added.parents; ++parent) {
    const int32_t at = parents.at[parent];
    int32_t count = parents.inserted[parent] ? 0 : large.offsets[at + 1] - large.offsets[at];
    for (int32_t child = added.offsets[parent]; child < added.offsets[parent + 1]; ++child) {
      count += children.inserted[child];
    }
    most = std::max(most, count);
  }
  return most;
}

// offsets and codes of every level, then the most children of each level's parents that got some.
// An empty tensor is one that does not change. An item that both tries have in the same leaf is an
// error.
std::vector<Tensor> trie_append(const std::vector<Tensor>& offsets,
                                const std::vector<Tensor>& codes,
                                const std::vector<Tensor>& added_offsets,
                                const std::vector<Tensor>& added_codes) {
  const Trie large = read_trie(offsets, codes), added = read_trie(added_offsets, added_codes);
  STD_TORCH_CHECK(large.levels.size() == added.levels.size(), "the tries must be equally deep");
  const auto depth = static_cast<int64_t>(large.levels.size());
  for (const TrieLevel& level : added.levels) check_ranges(level, 0, level.parents);
  const Tensor& like = offsets[0];
  std::vector<Tensor> results(2 * depth, new_ints(like, 0));
  std::vector<int32_t> most;
  Places parents{{0}, {false}, 0};
  for (int64_t level = 0; level < depth; ++level) {
    const TrieLevel &to = large.levels[level], &from = added.levels[level];
    Places children = find_children(to, from, parents);
    STD_TORCH_CHECK(to.children + children.num_inserted <= INT32_MAX,
                    "a trie must hold fewer than 2^31 items");
    if (children.num_inserted > 0) {
      results[level] = merge_offsets(like, to, from, parents, children);
      results[depth + level] = merge_codes(like, to, from, children);
    }
    if (level < depth - 1) most.push_back(widest_changed(to, from, parents, children));
    parents = std::move(children);
  }
  STD_TORCH_CHECK(parents.num_inserted == added.levels[depth - 1].children, "item_ids must be new");
  results.push_back(ints_of(like, most));
  return results;
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) { m.impl("trie_append", TORCH_BOX(&glass::trie_append)); }
