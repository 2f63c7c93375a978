// Counts tiers with bit-sliced counters: bit j of the counters of all codes lies in one register.
//
// For a set S of tier bits let f[S] be the number of events whose tier has all of them, that is,
// the sum over events of the AND of those planes. The f[S] of S = 1 .. N - 1 and the length f[0]
// give the N counts (`tiers_from_sets`), and one AND makes each of them from a smaller set. The
// sums are Harley-Seal: carry-save adders take 16 vectors to one carry, so that an event costs
// about five operations a set for as many codes as a register has bits.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "../common/simd.h"
#include "sid_tier_planes.h"
#include "sid_tier_shares.h"

namespace glass {

constexpr int kStep = 16;  // vectors added at once
constexpr int kCounterBits = 16;
constexpr int kSegment = 512;  // events whose rows are known at once; whole steps for every tile
constexpr int kAhead = 8;      // events whose rows are fetched before they are packed
constexpr int kFlush = 127 * kSegment;  // events that counters of 16 bits hold

GLASS_INLINE int top_bit(int set) { return static_cast<int>(std::bit_floor<unsigned>(set)); }

// What one thread needs to count histories.
struct SliceScratch {
  std::vector<const uint8_t*> rows;  // planes of each event of a segment
  std::vector<uint8_t> packed;       // those planes, if there is no packed table
  CacheLines values;                 // [N][kStep] vectors: planes, and products used again
  CacheLines counters;               // [tiles][N][kCounterBits] vectors, zero between histories
  std::vector<uint32_t> sets;        // [N][padded_codes]: f
  std::vector<float> shares;

  SliceScratch(const PlaneLayout& layout, int register_bytes, bool packs)
      : rows(kSegment + kAhead),
        packed(packs ? kSegment * layout.row_bytes : 0),
        values(layout.num_tiers * kStep * register_bytes),
        counters(layout.tiles.size() * layout.num_tiers * kCounterBits * register_bytes),
        sets(layout.num_tiers * layout.padded_codes),
        shares(sets.size()) {}
};

// Planes of `events` events side by side in the values of the sets of one bit; zeros after them.
template <int W, int T, int P>
GLASS_INLINE void gather(const Tile& tile, const uint8_t* const* rows, int events, uint8_t* values,
                         int vectors) {
  const int64_t offset = tile.offset;
  for (int event = 0; event < events; ++event) {
    const uint8_t* from = rows[event] + offset;
    prefetch(rows[event + kAhead] + offset, P * T);
    for (int plane = 0; plane < P; ++plane) {
      std::memcpy(values + (W * kStep << plane) + event * T, from + plane * T, T);
    }
  }
  if (events * T == vectors * W) return;
  for (int plane = 0; plane < P; ++plane) {
    std::memset(values + (W * kStep << plane) + events * T, 0, vectors * W - events * T);
  }
}

template <int W, int T, int P = 1>
GLASS_INLINE void gather_planes(const Tile& tile, int planes, const uint8_t* const* rows,
                                int events, uint8_t* values, int vectors) {
  if constexpr (P <= 8) {
    if (planes == P) {
      gather<W, T, P>(tile, rows, events, values, vectors);
    } else {
      gather_planes<W, T, P + 1>(tile, planes, rows, events, values, vectors);
    }
  }
}

template <typename Vector>
GLASS_INLINE void carry_save(Vector& sum, Vector& carry, const Vector& a, const Vector& b) {
  const Vector half = a ^ b;
  carry = (a & b) | (half & sum);
  sum ^= half;
}

// The AND of planes for V vectors of one set.
template <int W, bool kProduct>
struct SetValues {
  using Vector = typename Bytes<W>::type;
  const uint8_t* plane;
  const uint8_t* parent;
  uint8_t* store;

  template <bool kStore>
  GLASS_INLINE void get(Vector& to, int vector) const {
    Bytes<W>::load(to, plane + vector * W);
    if constexpr (kProduct) {
      Vector other;
      Bytes<W>::load(other, parent + vector * W);
      to &= other;
      if constexpr (kStore) Bytes<W>::store(store + vector * W, to);
    }
  }
};

// Adds 2^L vectors to the lowest L bits, and gives what they carry to bit L.
template <int W, int L, bool kStore, typename Values>
GLASS_INLINE void add_tree(const Values& values, int vector, typename Bytes<W>::type* low,
                           typename Bytes<W>::type& carry) {
  typename Bytes<W>::type a, b;
  if constexpr (L == 1) {
    values.template get<kStore>(a, vector);
    values.template get<kStore>(b, vector + 1);
  } else {
    add_tree<W, L - 1, kStore>(values, vector, low, a);
    add_tree<W, L - 1, kStore>(values, vector + (1 << (L - 1)), low, b);
  }
  carry_save(low[L - 1], carry, a, b);
}

// Adds V vectors to the counters of one set, which use `bits` bits afterwards.
template <int W, int V, bool kProduct, bool kStore>
GLASS_INLINE void add_vectors(const SetValues<W, kProduct>& values, uint8_t* counter, int bits) {
  using Vector = typename Bytes<W>::type;
  constexpr int kLevels = std::bit_width<unsigned>(V) - 1;
  Vector low[kLevels], carry;
  for (int bit = 0; bit < kLevels; ++bit) Bytes<W>::load(low[bit], counter + bit * W);
  add_tree<W, kLevels, kStore>(values, 0, low, carry);
  for (int bit = 0; bit < kLevels; ++bit) Bytes<W>::store(counter + bit * W, low[bit]);
  for (int bit = kLevels; bit < bits; ++bit) {
    Vector digit;
    Bytes<W>::load(digit, counter + bit * W);
    Bytes<W>::store(counter + bit * W, digit ^ carry);
    carry &= digit;
  }
}

template <int W, int V>
GLASS_INLINE void add_sets(int num_tiers, uint8_t* values, uint8_t* counters, int bits) {
  for (int set = 1; set < num_tiers; ++set) {
    const int top = top_bit(set);
    uint8_t* counter = counters + set * kCounterBits * W;
    const uint8_t* plane = values + top * kStep * W;
    if (set == top) {
      add_vectors<W, V, false, false>({plane, nullptr, nullptr}, counter, bits);
      continue;
    }
    const uint8_t* parent = values + (set - top) * kStep * W;
    uint8_t* own = values + set * kStep * W;
    if (set + 2 * top < num_tiers) {
      add_vectors<W, V, true, true>({plane, parent, own}, counter, bits);
    } else {
      add_vectors<W, V, true, false>({plane, parent, own}, counter, bits);
    }
  }
}

template <int W, int T = W>
GLASS_INLINE void gather_tile(const Tile& tile, int planes, const uint8_t* const* rows, int events,
                              uint8_t* values, int vectors) {
  if constexpr (T >= 2) {
    if (tile.bytes == T) {
      gather_planes<W, T>(tile, planes, rows, events, values, vectors);
    } else {
      gather_tile<W, T / 2>(tile, planes, rows, events, values, vectors);
    }
  }
}

// One tile of a segment. `before`: events that the counters hold already, in whole steps.
template <int W>
GLASS_INLINE void count_tile(const PlaneLayout& layout, const Tile& tile,
                             const uint8_t* const* rows, int events, int64_t before,
                             uint8_t* values, uint8_t* counters) {
  const int num_tiers = static_cast<int>(layout.num_tiers);
  const int per_vector = W / tile.bytes;
  for (int start = 0; start < events; start += kStep * per_vector) {
    const int now = std::min(events - start, kStep * per_vector);
    const bool few = now <= kStep / 2 * per_vector;
    const int vectors = few ? kStep / 2 : kStep;
    gather_tile<W>(tile, layout.planes, rows + start, now, values, vectors);
    // no counter exceeds the number of vectors
    const int bits = std::bit_width<uint64_t>((before + start) / per_vector + vectors);
    if (few) {
      add_sets<W, kStep / 2>(num_tiers, values, counters, bits);
    } else {
      add_sets<W, kStep>(num_tiers, values, counters, bits);
    }
  }
}

// The counters of one set, of `width` bytes, folded to `bytes`: events that stood side by side.
template <int W>
GLASS_INLINE void fold(uint8_t* counter, int stride, int& bits, int bytes) {
  if constexpr (W > 2) {
    if (W == bytes) return;
    using Half = typename Bytes<W / 2>::type;
    Half carry = {};
    for (int bit = 0; bit < bits; ++bit) {
      Half a, b, sum = carry;
      Bytes<W / 2>::load(a, counter + bit * stride);
      Bytes<W / 2>::load(b, counter + bit * stride + W / 2);
      carry_save(sum, carry, a, b);
      Bytes<W / 2>::store(counter + bit * stride, sum);
    }
    if (bits < kCounterBits) Bytes<W / 2>::store(counter + bits++ * stride, carry);
    fold<W / 2>(counter, stride, bits, bytes);
  }
}

// Adds counters of `bits` bits to one number a code, 16 codes at once.
GLASS_INLINE void add_counts(const uint8_t* counter, int stride, int bits, int bytes,
                             uint32_t* counts) {
  typedef uint16_t Lanes __attribute__((vector_size(32)));
  typedef uint32_t Wide __attribute__((vector_size(64)));
  constexpr Lanes kLane = {1,      1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                           1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
  for (int at = 0; at < bytes; at += 2) {
    Lanes count = {};
    for (int bit = bits - 1; bit >= 0; --bit) {
      uint16_t word;
      std::memcpy(&word, counter + bit * stride + at, 2);
      count += count;
      count -= (Lanes)(((Lanes{} + word) & kLane) == kLane);
    }
    Wide sum;
    std::memcpy(&sum, counts + 8 * at, sizeof(sum));
    sum += __builtin_convertvector(count, Wide);
    std::memcpy(counts + 8 * at, &sum, sizeof(sum));
  }
}

// Adds the counters of `events` events to f, and clears them.
template <int W>
GLASS_INLINE void flush(const PlaneLayout& layout, int64_t events, SliceScratch& scratch) {
  uint8_t* counters = scratch.counters.get();
  const int64_t tile_bytes = layout.num_tiers * kCounterBits * W;
  for (const Tile& tile : layout.tiles) {
    const int per_vector = W / tile.bytes;
    const int used = std::bit_width<uint64_t>((events + per_vector - 1) / per_vector + kStep);
    for (int64_t set = 1; set < layout.num_tiers; ++set) {
      uint8_t* counter = counters + set * kCounterBits * W;
      int bits = std::min(used, kCounterBits);
      fold<W>(counter, W, bits, tile.bytes);
      add_counts(counter, W, bits, tile.bytes,
                 scratch.sets.data() + set * layout.padded_codes + tile.code);
    }
    std::memset(counters, 0, tile_bytes);
    counters += tile_bytes;
  }
}

// f of the events `ids`.
template <int W, typename Bits>
GLASS_INLINE Fault count_sets(const PlaneLayout& layout, const uint8_t* table, int64_t num_items,
                              const uint8_t* packed_table, const ItemIds& ids, int64_t events,
                              SliceScratch& scratch) {
  PackVector broken = {};
  std::fill(scratch.sets.begin(), scratch.sets.end(), 0);
  int64_t before = 0;
  for (int64_t start = 0; start < events; start += kSegment) {
    const int now = static_cast<int>(std::min<int64_t>(events - start, kSegment));
    for (int event = 0; event < now; ++event) {
      const int64_t id = ids.at(start + event);
      if (id < 0 || id >= num_items) return Fault::kItem;
      if (packed_table != nullptr) {
        scratch.rows[event] = packed_table + id * layout.row_bytes;
      } else {
        scratch.rows[event] = table + id * layout.num_codes;
      }
    }
    if (packed_table == nullptr) {
      for (int event = 0; event < now; ++event) {
        if (event + kAhead < now) prefetch(scratch.rows[event + kAhead], layout.num_codes);
        uint8_t* packed = scratch.packed.data() + event * layout.row_bytes;
        pack_row<Bits>(layout, scratch.rows[event], packed, broken);
        scratch.rows[event] = packed;
      }
    }
    std::fill_n(scratch.rows.data() + now, kAhead, scratch.rows[now - 1]);
    uint8_t* counters = scratch.counters.get();
    for (const Tile& tile : layout.tiles) {
      count_tile<W>(layout, tile, scratch.rows.data(), now, before, scratch.values.get(), counters);
      counters += layout.num_tiers * kCounterBits * W;
    }
    before += now;
    if (before == kFlush || start + now == events) {
      flush<W>(layout, before, scratch);
      before = 0;
    }
  }
  for (int64_t code = 0; code < layout.num_codes; ++code) {
    scratch.sets[code] = static_cast<uint32_t>(events);
  }
  return any(broken) ? Fault::kTier : Fault::kNone;
}

// Turns f into the number of events of every tier, in place: [N][padded_codes].
GLASS_INLINE void tiers_from_sets(const PlaneLayout& layout, uint32_t* __restrict sets) {
  const int64_t codes = layout.padded_codes;
  for (int64_t bit = 1; bit < layout.num_tiers; bit *= 2) {
    for (int64_t set = 0; set + bit < layout.num_tiers; ++set) {
      if (set & bit) continue;
      uint32_t* to = sets + set * codes;
      const uint32_t* more = sets + (set + bit) * codes;
      for (int64_t code = 0; code < codes; ++code) to[code] -= more[code];
    }
  }
}

// Writes the histogram [K, N] of f, which it overwrites.
GLASS_INLINE void write_tiers(const PlaneLayout& layout, SliceScratch& scratch, int64_t divisor,
                              float* __restrict out) {
  const int64_t codes = layout.num_codes, padded = layout.padded_codes, tiers = layout.num_tiers;
  tiers_from_sets(layout, scratch.sets.data());
  float* shares = scratch.shares.data();
  write_shares(scratch.sets.data(), tiers * padded, divisor, shares);
  for (int64_t code = 0; code < codes; ++code) {
    for (int64_t tier = 0; tier < tiers; ++tier) *out++ = shares[tier * padded + code];
  }
}

}  // namespace glass
