// SID-Tier histogram from the byte table: out[b, k, n] = #{events of b : table[item, k] == n}.
//
// A tile of W codes counts G tiers at once in byte counters that stay in registers: one load of
// the row, then compare and subtract (a true comparison is -1) per tier. Byte counters hold 255
// events; then they are added to 32-bit ones.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "../common/checks.h"
#include "../common/simd.h"

namespace glass {
namespace {

struct History {
  const uint8_t* const* rows;  // the table row of each event
  int64_t events;
  int64_t num_codes;
  int64_t num_tiers;
  float* out;  // [num_codes, num_tiers]
  bool normalize;
};

constexpr int64_t kByteCapacity = 255;
constexpr int kMaxGroup = 8;  // counters + row + comparison fit in 16 registers

GLASS_INLINE float finish(int64_t count, const History& history) {
  // in double: the same bits as the reference
  return history.normalize ? static_cast<float>(static_cast<double>(count) / history.events)
                           : static_cast<float>(count);
}

// Tiers [tier, tier + G) of codes [code, code + W).
template <int W, int G>
GLASS_INLINE void count_tile(const History& history, int64_t code, int64_t tier) {
  using Vector = typename Bytes<W>::type;
  uint32_t total[G][W] = {};
  for (int64_t start = 0; start < history.events; start += kByteCapacity) {
    const int64_t end = std::min(start + kByteCapacity, history.events);
    Vector counter[G] = {};
    for (int64_t event = start; event < end; ++event) {
      Vector row;
      Bytes<W>::load(row, history.rows[event] + code);
      for (int g = 0; g < G; ++g) {
        counter[g] -= (Vector)(row == static_cast<uint8_t>(tier + g));
      }
    }
    for (int g = 0; g < G; ++g) {
      for (int lane = 0; lane < W; ++lane) total[g][lane] += counter[g][lane];
    }
  }
  for (int lane = 0; lane < W; ++lane) {
    float* out = history.out + (code + lane) * history.num_tiers + tier;
    for (int g = 0; g < G; ++g) out[g] = finish(total[g][lane], history);
  }
}

template <int W, int G>
GLASS_INLINE void count_codes(const History& history, int64_t tier) {
  for (int64_t code = 0; code < history.num_codes; code += W) {
    // the last tile overlaps the one before instead of reading past the row
    count_tile<W, G>(history, std::min(code, history.num_codes - W), tier);
  }
}

template <int W, int G>
GLASS_INLINE void count_rest(const History& history, int64_t tier) {
  if constexpr (G > 0) {
    if (history.num_tiers - tier == G) {
      count_codes<W, G>(history, tier);
    } else {
      count_rest<W, G - 1>(history, tier);
    }
  }
}

template <int W>
GLASS_INLINE void count_vector(const History& history) {
  int64_t tier = 0;
  for (; history.num_tiers - tier >= kMaxGroup; tier += kMaxGroup) {
    count_codes<W, kMaxGroup>(history, tier);
  }
  count_rest<W, kMaxGroup - 1>(history, tier);
}

// Too few codes for a vector.
void count_narrow(const History& history) {
  const int64_t size = history.num_codes * history.num_tiers;
  std::vector<int64_t> total(size, 0);
  for (int64_t event = 0; event < history.events; ++event) {
    for (int64_t code = 0; code < history.num_codes; ++code) {
      const int64_t tier = history.rows[event][code];
      if (tier < history.num_tiers) ++total[code * history.num_tiers + tier];
    }
  }
  for (int64_t cell = 0; cell < size; ++cell) history.out[cell] = finish(total[cell], history);
}

void count_base(const History& history) {
  if (history.num_codes < 16) return count_narrow(history);
  count_vector<16>(history);
}

#ifdef GLASS_X86
GLASS_TARGET_AVX2 void count_avx2(const History& history) {
  if (history.num_codes < 32) return count_base(history);
  count_vector<32>(history);
}

GLASS_TARGET_AVX512 void count_avx512(const History& history) {
  if (history.num_codes < 64) return count_avx2(history);
  count_vector<64>(history);
}
#endif

void count(const History& history) {
  if (history.events == 0) {
    std::fill_n(history.out, history.num_codes * history.num_tiers, 0.0f);
    return;
  }
#ifdef GLASS_X86
  if (best_simd() == Simd::kAvx512) return count_avx512(history);
  if (best_simd() == Simd::kAvx2) return count_avx2(history);
#endif
  count_base(history);
}

template <typename Id>
void run(const Id* ids, const int64_t* offsets, int64_t num_users, const uint8_t* table,
         int64_t num_items, History shared, float* out) {
  std::atomic<bool> bad_id{false};
  torch::stable::parallel_for(0, num_users, 1, [&](int64_t begin, int64_t end) {
    std::vector<const uint8_t*> rows;
    for (int64_t user = begin; user < end; ++user) {
      History history = shared;
      history.events = offsets[user + 1] - offsets[user];
      history.out = out + user * shared.num_codes * shared.num_tiers;
      rows.resize(history.events);
      const Id* user_ids = ids + offsets[user];
      for (int64_t event = 0; event < history.events; ++event) {
        int64_t id = user_ids[event];
        if (id < 0 || id >= num_items) {
          bad_id = true;
          return;
        }
        rows[event] = table + id * shared.num_codes;
      }
      history.rows = rows.data();
      count(history);
    }
  });
  STD_TORCH_CHECK(!bad_id, "item_ids must be in [0, ", num_items, ")");
}

Tensor sid_tier(const Tensor& item_ids, const Tensor& offsets, const Tensor& table,
                int64_t num_tiers, bool normalize) {
  check_cpu(item_ids, "item_ids", 1);
  check_cpu(offsets, "offsets", 1);
  check_cpu(table, "table", 2);
  STD_TORCH_CHECK(table.scalar_type() == ScalarType::Byte, "table must be uint8");
  STD_TORCH_CHECK(offsets.scalar_type() == ScalarType::Long, "offsets must be int64");
  STD_TORCH_CHECK(num_tiers >= 1 && num_tiers <= 255, "num_tiers must be in [1, 255]");
  STD_TORCH_CHECK(offsets.numel() >= 1, "offsets must not be empty");
  const Tensor ids = torch::stable::contiguous(item_ids);
  const Tensor bounds = torch::stable::contiguous(offsets);
  const Tensor bytes = torch::stable::contiguous(table);
  const int64_t num_users = bounds.numel() - 1;
  const int64_t* offset = bounds.const_data_ptr<int64_t>();
  check_offsets(offset, num_users, ids.numel());

  const int64_t num_codes = bytes.size(1);
  Tensor out =
      torch::stable::new_empty(bytes, {num_users, num_codes, num_tiers}, ScalarType::Float);
  const History shared{nullptr, 0, num_codes, num_tiers, nullptr, normalize};
  const auto* rows = bytes.const_data_ptr<uint8_t>();
  float* result = out.mutable_data_ptr<float>();
  if (ids.scalar_type() == ScalarType::Int) {
    run(ids.const_data_ptr<int32_t>(), offset, num_users, rows, bytes.size(0), shared, result);
  } else {
    STD_TORCH_CHECK(ids.scalar_type() == ScalarType::Long, "item_ids must be int32 or int64");
    run(ids.const_data_ptr<int64_t>(), offset, num_users, rows, bytes.size(0), shared, result);
  }
  return out;
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) { m.impl("sid_tier", TORCH_BOX(&glass::sid_tier)); }
