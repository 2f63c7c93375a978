// SID-Tier histogram from the byte table: out[b, k, n] = #{events of b : table[item, k] == n}.
//
// Few tiers are counted with bit-sliced counters (sid_tier_slices.h), many in memory
// (sid_tier_cells.h). Where the events outnumber the items, the whole table is packed into bit
// planes first; otherwise the row of each event is.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <vector>

#include "../common/checks.h"
#include "../common/simd.h"
#include "sid_tier_cells.h"
#include "sid_tier_count.h"
#include "sid_tier_shares.h"
#include "sid_tier_slices.h"
#include "sid_tier_tasks.h"

namespace glass {
namespace {

struct Catalogue {
  const uint8_t* table;  // [num_items, K]
  int64_t num_items;
  const PlaneLayout& layout;
  const uint8_t* packed;  // the table in planes, or null
};

// The same loops, compiled for each processor level.
#define GLASS_SID_TIER_PATH(NAME, TARGET, WIDTH, BITS)                                           \
  struct NAME {                                                                                  \
    static constexpr int kWidth = WIDTH;                                                         \
    TARGET static Fault count(const Catalogue& catalogue, const ItemIds& ids, int64_t events,    \
                              SliceScratch& scratch) {                                           \
      return count_sets<WIDTH, BITS>(catalogue.layout, catalogue.table, catalogue.num_items,     \
                                     catalogue.packed, ids, events, scratch);                    \
    }                                                                                            \
    TARGET static Fault pack(const Catalogue& catalogue, int64_t begin, int64_t end,             \
                             uint8_t* packed) {                                                  \
      PackVector broken = {};                                                                    \
      for (int64_t item = begin; item < end; ++item) {                                           \
        pack_row<BITS>(catalogue.layout, catalogue.table + item * catalogue.layout.num_codes,    \
                       packed + item * catalogue.layout.row_bytes, broken);                      \
      }                                                                                          \
      return any(broken) ? Fault::kTier : Fault::kNone;                                          \
    }                                                                                            \
    TARGET static void finish(const PlaneLayout& layout, SliceScratch& scratch, int64_t divisor, \
                              float* out) {                                                      \
      write_tiers(layout, scratch, divisor, out);                                                \
    }                                                                                            \
  }

GLASS_SID_TIER_PATH(BasePath, , 16, BaseBits);
#ifdef GLASS_X86
GLASS_SID_TIER_PATH(Avx2Path, GLASS_TARGET_AVX2, 32, Avx2Bits);
GLASS_SID_TIER_PATH(Avx512Path, GLASS_TARGET_AVX512, 64, Avx2Bits);
#endif
#undef GLASS_SID_TIER_PATH

// Counts in slices.
template <typename Path>
struct Slices {
  const Catalogue& catalogue;
  SliceScratch scratch;

  explicit Slices(const Catalogue& of)
      : catalogue(of), scratch(of.layout, Path::kWidth, of.packed == nullptr) {}
  static int64_t size(const PlaneLayout& layout) { return layout.num_tiers * layout.padded_codes; }
  Fault count(const ItemIds& ids, int64_t events) {
    return Path::count(catalogue, ids, events, scratch);
  }
  uint32_t* counts() { return scratch.sets.data(); }
  void finish(int64_t divisor, float* out) {
    Path::finish(catalogue.layout, scratch, divisor, out);
  }
};

// Counts in memory.
struct Cells {
  const Catalogue& catalogue;
  std::vector<uint32_t> cells;

  explicit Cells(const Catalogue& of) : catalogue(of), cells(size(of.layout)) {}
  static int64_t size(const PlaneLayout& layout) { return layout.num_tiers * layout.num_codes; }
  Fault count(const ItemIds& ids, int64_t events) {
    return count_cells(catalogue.table, catalogue.num_items, catalogue.layout.num_codes,
                       catalogue.layout.num_tiers, ids, events, counts());
  }
  uint32_t* counts() { return cells.data(); }
  void finish(int64_t divisor, float* out) {
    write_shares(counts(), size(catalogue.layout), divisor, out);
  }
};

void note(std::atomic<Fault>& fault, Fault found) {
  if (found != Fault::kNone) fault = found;
}

// Runs work(thread's counter, index) for every index, each taken by the next idle thread.
template <typename Counter, typename Work>
void take_turns(const Catalogue& catalogue, int64_t threads, int64_t count, const Work& work) {
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, std::min(threads, count), 1, [&](int64_t, int64_t) {
    Counter counter(catalogue);
    for (int64_t index = next++; index < count; index = next++) work(counter, index);
  });
}

template <typename Counter>
Fault count_histories(const Catalogue& catalogue, const ItemIds& ids, const int64_t* offsets,
                      int64_t num_users, bool normalize, float* out) {
  const PlaneLayout& layout = catalogue.layout;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t out_size = layout.num_codes * layout.num_tiers, size = Counter::size(layout);
  const Plan plan = plan_tasks(offsets, num_users, threads);
  std::vector<uint32_t> parts(plan.parts * size);
  const auto divisor = [&](int64_t user) {
    return normalize ? std::max<int64_t>(offsets[user + 1] - offsets[user], 1) : 1;
  };
  std::atomic<Fault> fault{Fault::kNone};
  take_turns<Counter>(catalogue, threads, plan.tasks.size(), [&](Counter& counter, int64_t index) {
    const Task& task = plan.tasks[index];
    if (task.part >= 0) {
      note(fault, counter.count(ids.from(task.event), task.event_end - task.event));
      std::copy_n(counter.counts(), size, parts.data() + task.part * size);
      return;
    }
    for (int64_t user = task.user; user < task.user_end && fault == Fault::kNone; ++user) {
      const int64_t events = offsets[user + 1] - offsets[user];
      note(fault, counter.count(ids.from(offsets[user]), events));
      counter.finish(divisor(user), out + user * out_size);
    }
  });
  take_turns<Counter>(catalogue, threads, plan.long_users.size(),
                      [&](Counter& counter, int64_t index) {
                        const LongUser& user = plan.long_users[index];
                        uint32_t* total = counter.counts();
                        std::fill_n(total, size, 0);
                        for (int64_t part = user.part; part < user.part_end; ++part) {
                          const uint32_t* one = parts.data() + part * size;
                          for (int64_t cell = 0; cell < size; ++cell) total[cell] += one[cell];
                        }
                        counter.finish(divisor(user.user), out + user.user * out_size);
                      });
  return fault;
}

// Packs the table if that is less work than packing the row of every event.
template <typename Path>
Fault count_slices(Catalogue catalogue, const ItemIds& ids, const int64_t* offsets,
                   int64_t num_users, bool normalize, float* out) {
  std::unique_ptr<uint8_t[]> packed;
  if (catalogue.num_items <= offsets[num_users]) {
    packed.reset(new uint8_t[catalogue.num_items * catalogue.layout.row_bytes]);
    std::atomic<Fault> fault{Fault::kNone};
    torch::stable::parallel_for(0, catalogue.num_items, 4096, [&](int64_t begin, int64_t end) {
      note(fault, Path::pack(catalogue, begin, end, packed.get()));
    });
    if (fault != Fault::kNone) return fault;
    catalogue.packed = packed.get();
  }
  return count_histories<Slices<Path>>(catalogue, ids, offsets, num_users, normalize, out);
}

// Tiers that one pass of slices counts in less time than memory.
constexpr int64_t max_slice_tiers(int register_bytes) { return 4 * register_bytes; }

template <typename Path>
Fault count_path(const uint8_t* table, int64_t num_items, int64_t num_codes, int64_t num_tiers,
                 const ItemIds& ids, const int64_t* offsets, int64_t num_users, bool normalize,
                 float* out) {
  const PlaneLayout layout(num_codes, num_tiers, Path::kWidth);
  const Catalogue catalogue{table, num_items, layout, nullptr};
  if (num_tiers > max_slice_tiers(Path::kWidth)) {
    return count_histories<Cells>(catalogue, ids, offsets, num_users, normalize, out);
  }
  return count_slices<Path>(catalogue, ids, offsets, num_users, normalize, out);
}

Fault count(const uint8_t* table, int64_t num_items, int64_t num_codes, int64_t num_tiers,
            const ItemIds& ids, const int64_t* offsets, int64_t num_users, bool normalize,
            float* out) {
  auto run = count_path<BasePath>;
#ifdef GLASS_X86
  if (best_simd() == Simd::kAvx2) run = count_path<Avx2Path>;
  if (best_simd() == Simd::kAvx512) run = count_path<Avx512Path>;
#endif
  return run(table, num_items, num_codes, num_tiers, ids, offsets, num_users, normalize, out);
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
  STD_TORCH_CHECK(item_ids.numel() <= INT32_MAX, "item_ids must hold fewer than 2^31 events");
  const Tensor ids = torch::stable::contiguous(item_ids);
  const Tensor bounds = torch::stable::contiguous(offsets);
  const Tensor bytes = torch::stable::contiguous(table);
  const int64_t num_users = bounds.numel() - 1;
  const int64_t* offset = bounds.const_data_ptr<int64_t>();
  check_offsets(offset, num_users, ids.numel());

  Tensor out =
      torch::stable::new_empty(bytes, {num_users, bytes.size(1), num_tiers}, ScalarType::Float);
  float* result = out.mutable_data_ptr<float>();
  const bool is_int = ids.scalar_type() == ScalarType::Int;
  STD_TORCH_CHECK(is_int || ids.scalar_type() == ScalarType::Long,
                  "item_ids must be int32 or int64");
  const ItemIds events{is_int ? ids.const_data_ptr<int32_t>() : nullptr,
                       is_int ? nullptr : ids.const_data_ptr<int64_t>()};
  const Fault fault = count(bytes.const_data_ptr<uint8_t>(), bytes.size(0), bytes.size(1),
                            num_tiers, events, offset, num_users, normalize, result);
  STD_TORCH_CHECK(fault != Fault::kItem, "item_ids must be in [0, ", bytes.size(0), ")");
  STD_TORCH_CHECK(fault != Fault::kTier, "table must hold tiers below num_tiers = ", num_tiers);
  return out;
}

}  // namespace

Fault count_tiers(const uint8_t* table, int64_t num_items, int64_t num_codes, int64_t num_tiers,
                  const int32_t* ids, const int64_t* offsets, int64_t num_users, bool normalize,
                  float* out) {
  return count(table, num_items, num_codes, num_tiers, {ids, nullptr}, offsets, num_users,
               normalize, out);
}

}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) { m.impl("sid_tier", TORCH_BOX(&glass::sid_tier)); }
