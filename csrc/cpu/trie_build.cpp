// Sorts semantic IDs into a trie's arrays: a radix sort of packed codes, then one pass over the
// sorted rows in which the codes that differ from the row before open nodes.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <bit>
#include <memory>

#include "trie_arrays.h"

namespace glass {
namespace {

constexpr int kDigit = 11;  // bits that one pass sorts by: its counters stay in the L1 cache

template <typename Code>
struct Sids {
  const Code* codes;  // [items, levels]
  int64_t items, levels;
};

// Where codes of each level lie in a sort key: a run of levels shares a key with the item's number.
struct Packing {
  std::vector<int> bits;  // of each level
  std::vector<int> ends;  // 1 where a level has the -1 of ended SIDs, which sorts first
  int item_bits;
};

// Every row is a SID: codes below the sizes, then -1 to its end. False if one is not.
template <typename Code>
bool pack(const Sids<Code>& sids, const std::vector<int64_t>& sizes, Packing& packing) {
  const int64_t levels = sids.levels;
  std::vector<int64_t> largest(levels, 0), smallest(levels, 0);
  bool wrong = false;
  for (int64_t item = 0; item < sids.items; ++item) {
    const Code* row = sids.codes + item * levels;
    bool ended = false;
    for (int64_t level = 0; level < levels; ++level) {
      const int64_t code = row[level];
      wrong |= ended & (code >= 0);
      ended = code < 0;
      largest[level] = std::max(largest[level], code);
      smallest[level] = std::min(smallest[level], code);
    }
  }
  packing.item_bits = std::bit_width(static_cast<uint64_t>(sids.items - 1));
  for (int64_t level = 0; level < levels; ++level) {
    wrong |= largest[level] >= sizes[level] || smallest[level] < (level ? -1 : 0);
    packing.ends.push_back(smallest[level] < 0);
    packing.bits.push_back(
        std::bit_width(static_cast<uint64_t>(largest[level] + packing.ends[level])));
  }
  return !wrong;
}

using Words = std::unique_ptr<uint64_t[]>;

// Stable sort of words [count] by bits low : low + bits; spare is as large, and may become words.
void radix_sort(Words& words, Words& spare, int64_t count, int low, int bits) {
  const int passes = (bits + kDigit - 1) / kDigit;
  if (passes == 0) return;
  const int digit = (bits + passes - 1) / passes;
  const uint64_t mask = (uint64_t{1} << digit) - 1;
  std::vector<uint32_t> starts(static_cast<size_t>(passes) << digit);
  for (int64_t i = 0; i < count; ++i) {
    uint64_t key = words[i] >> low;
    for (int pass = 0; pass < passes; ++pass, key >>= digit) {
      ++starts[(static_cast<uint64_t>(pass) << digit) + (key & mask)];
    }
  }
  for (int pass = 0; pass < passes; ++pass) {
    uint32_t* next = starts.data() + (static_cast<size_t>(pass) << digit);
    uint32_t sum = 0;
    for (uint64_t value = 0; value <= mask; ++value) {
      const uint32_t here = next[value];
      next[value] = sum;
      sum += here;
    }
    const int shift = low + pass * digit;
    const uint64_t* from = words.get();
    uint64_t* to = spare.get();
    for (int64_t i = 0; i < count; ++i) to[next[(from[i] >> shift) & mask]++] = from[i];
    std::swap(words, spare);
  }
}

// The first level of the run that ends before `stop` and fits one word.
int64_t run_start(const Packing& packing, int64_t stop) {
  int total = packing.item_bits;
  int64_t first = stop;
  while (first > 0 && total + packing.bits[first - 1] <= 64) total += packing.bits[--first];
  return first;
}

// Words whose low item_bits are the items in the order of their SIDs, those that share one rising;
// above them the codes of the first run of levels, which ends at `run_stop`.
template <typename Code>
Words sort_items(const Sids<Code>& sids, const Packing& packing, int64_t& run_stop) {
  Words words(new uint64_t[sids.items]), spare(new uint64_t[sids.items]);
  for (int64_t item = 0; item < sids.items; ++item) words[item] = item;
  const uint64_t item_mask = (uint64_t{1} << packing.item_bits) - 1;
  for (int64_t stop = sids.levels, first; stop > 0; stop = first) {
    first = run_start(packing, stop);
    run_stop = stop;
    int bits = 0;
    for (int64_t level = first; level < stop; ++level) bits += packing.bits[level];
    for (int64_t i = 0; i < sids.items; ++i) {
      const uint64_t item = words[i] & item_mask;
      const Code* row = sids.codes + item * sids.levels;
      uint64_t key = 0;
      for (int64_t level = first; level < stop; ++level) {
        key =
            (key << packing.bits[level]) | static_cast<uint64_t>(row[level] + packing.ends[level]);
      }
      words[i] = (key << packing.item_bits) | item;
    }
    radix_sort(words, spare, sids.items, packing.item_bits, bits);
  }
  return words;
}

// Codes of the sorted rows: out of their words, as far as these have them.
template <typename Code>
struct SortedRows {
  const Sids<Code>& sids;
  const Packing& packing;
  const Words& words;
  int64_t run_stop;

  int64_t item(int64_t row) const { return words[row] & ((uint64_t{1} << packing.item_bits) - 1); }

  void read(int64_t row, int32_t* codes) const {
    uint64_t key = words[row] >> packing.item_bits;
    for (int64_t level = run_stop - 1; level >= 0; --level) {
      const uint64_t mask = (uint64_t{1} << packing.bits[level]) - 1;
      codes[level] = static_cast<int32_t>(key & mask) - packing.ends[level];
      key >>= packing.bits[level];
    }
    const Code* source = sids.codes + item(row) * sids.levels;
    for (int64_t level = run_stop; level < sids.levels; ++level) {
      codes[level] = static_cast<int32_t>(source[level]);
    }
  }

  // Nodes of each depth 1 ... levels.
  std::vector<int64_t> count_nodes() const {
    const int64_t levels = sids.levels;
    std::vector<int64_t> nodes(levels, 0);
    std::vector<int32_t> codes(levels), last(levels, -2);
    for (int64_t row = 0; row < sids.items; ++row) {
      read(row, codes.data());
      bool differs = false;
      for (int64_t level = 0; level < levels; ++level) {
        differs |= codes[level] != last[level];
        nodes[level] += differs;
      }
      std::swap(codes, last);
    }
    return nodes;
  }

  // offsets and codes of every level, the items' included. What a row finds open it writes again.
  void write(int32_t* const* offsets, int32_t* const* out) const {
    const int64_t levels = sids.levels;
    std::vector<int32_t> codes(levels), last(levels, -2), node(levels, -1);
    for (int64_t level = 0; level <= levels; ++level) offsets[level][0] = 0;
    for (int64_t row = 0; row < sids.items; ++row) {
      read(row, codes.data());
      bool differs = false;
      int32_t parent = 0;
      for (int64_t level = 0; level < levels; ++level) {
        differs |= codes[level] != last[level];
        const int32_t here = node[level] += differs;
        out[level][here] = codes[level];
        offsets[level][parent + 1] = here + 1;
        parent = here;
      }
      out[levels][row] = static_cast<int32_t>(item(row));
      offsets[levels][parent + 1] = static_cast<int32_t>(row + 1);
      std::swap(codes, last);
    }
  }
};

// offsets and codes of every level, the items' included; then the most children of each level's
// parents.
template <typename Code>
std::vector<Tensor> build(const Tensor& sids, const std::vector<int64_t>& sizes) {
  const Sids<Code> table{sids.const_data_ptr<Code>(), sids.size(0), sids.size(1)};
  Packing packing;
  STD_TORCH_CHECK(pack(table, sizes, packing), "sids must be codes of their codebooks, then -1");
  int64_t run_stop = 0;
  const Words words = sort_items(table, packing, run_stop);
  const SortedRows<Code> rows{table, packing, words, run_stop};
  std::vector<int64_t> counts = rows.count_nodes();
  counts.insert(counts.begin(), 1);
  counts.push_back(table.items);

  std::vector<Tensor> tensors;
  for (int64_t level = 0; level <= table.levels; ++level) {
    tensors.push_back(new_ints(sids, counts[level] + 1));
  }
  for (int64_t level = 0; level <= table.levels; ++level) {
    tensors.push_back(new_ints(sids, counts[level + 1]));
  }
  std::vector<int32_t*> pointers;
  for (Tensor& tensor : tensors) pointers.push_back(tensor.mutable_data_ptr<int32_t>());
  rows.write(pointers.data(), pointers.data() + table.levels + 1);
  std::vector<int32_t> most;
  for (int64_t level = 0; level < table.levels; ++level) {
    most.push_back(widest(pointers[level], counts[level]));
  }
  tensors.push_back(ints_of(sids, most));
  return tensors;
}

std::vector<Tensor> trie_build(const Tensor& sids, const std::vector<int64_t>& codebook_sizes) {
  check_cpu(sids, "sids", 2);
  const int64_t items = sids.size(0), levels = sids.size(1);
  STD_TORCH_CHECK(items >= 1 && items <= INT32_MAX, "sids must hold 1 to 2^31 - 1 items");
  STD_TORCH_CHECK(levels >= 1 && levels == static_cast<int64_t>(codebook_sizes.size()),
                  "codebook_sizes must have the levels of sids");
  for (const int64_t size : codebook_sizes) {
    STD_TORCH_CHECK(size >= 1 && size <= INT32_MAX, "codebook_sizes must be in [1, 2^31)");
  }
  const Tensor rows = packed(sids);
  const bool is_int = rows.scalar_type() == ScalarType::Int;
  STD_TORCH_CHECK(is_int || rows.scalar_type() == ScalarType::Long, "sids must be int32 or int64");
  return is_int ? build<int32_t>(rows, codebook_sizes) : build<int64_t>(rows, codebook_sizes);
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) { m.impl("trie_build", TORCH_BOX(&glass::trie_build)); }
