// Rows of the byte table as bit planes: tier of (item, code) in ceil(log2 N) bits instead of 8.
//
// Bit p of a tier goes to plane p, so one bitwise operation works on as many codes as a register
// has bits. The codes of a row are cut into tiles, each narrower than the one before and as wide as
// a register at most; a tile holds its planes one after another.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "../common/simd.h"

namespace glass {

static_assert(std::endian::native == std::endian::little);

enum class Fault { kNone, kItem, kTier };  // an item id or a tier out of range

// Item ids of either width, so that the loops around them are compiled once.
struct ItemIds {
  const int32_t* narrow;
  const int64_t* wide;

  GLASS_INLINE int64_t at(int64_t event) const {
    return narrow != nullptr ? narrow[event] : wide[event];
  }
  ItemIds from(int64_t event) const {
    return narrow != nullptr ? ItemIds{narrow + event, nullptr} : ItemIds{nullptr, wide + event};
  }
};

struct Tile {
  int64_t code;    // first code
  int bytes;       // width of one plane: 2, 4, .. 64
  int64_t offset;  // of the first plane in a row
};

struct PlaneLayout {
  int64_t num_codes;
  int64_t num_tiers;
  int planes;
  std::vector<Tile> tiles;
  int64_t padded_codes;  // codes of all tiles
  int64_t row_bytes;

  PlaneLayout(int64_t codes, int64_t tiers, int register_bytes)
      : num_codes(codes),
        num_tiers(tiers),
        planes(std::bit_width(static_cast<uint64_t>(tiers - 1))),
        padded_codes(0),
        row_bytes(0) {
    while (padded_codes < codes) {
      const uint64_t left = (codes - padded_codes + 7) / 8;
      // the whole rest where one register holds it: many tiles cost more than unused bits
      const uint64_t width = left <= 8 ? std::bit_ceil(left) : std::bit_floor(left);
      const int bytes = static_cast<int>(std::clamp<uint64_t>(width, 2, register_bytes));
      tiles.push_back({padded_codes, bytes, row_bytes});
      padded_codes += 8 * bytes;
      row_bytes += static_cast<int64_t>(planes) * bytes;
    }
  }
};

constexpr int kPackCodes = 32;  // packed at once
typedef uint8_t PackVector __attribute__((vector_size(kPackCodes)));
typedef uint64_t PackWords __attribute__((vector_size(kPackCodes)));

// Bit `plane` of 32 bytes, as 32 bits.
struct BaseBits {
  static GLASS_INLINE uint32_t of(const PackVector& bytes, int plane) {
    const PackWords words = (PackWords)bytes;
    uint32_t bits = 0;
    for (int word = 0; word < 4; ++word) {
      // the product moves the lowest bit of byte i to bit 56 + i
      const uint64_t lowest = (words[word] >> plane) & 0x0101010101010101u;
      bits |= static_cast<uint32_t>((lowest * 0x0102040810204080u) >> 56) << (8 * word);
    }
    return bits;
  }
};

#ifdef GLASS_X86
struct Avx2Bits {
  // not GLASS_INLINE: GCC would refuse it inside templates, which have no target of their own
  static inline GLASS_TARGET_AVX2 uint32_t of(const PackVector& bytes, int plane) {
    typedef char Signed __attribute__((vector_size(kPackCodes)));
    return __builtin_ia32_pmovmskb256((Signed)((PackWords)bytes << (7 - plane)));
  }
};
#endif

// Packs one row of bytes; `broken` gathers bytes that are no tier.
template <typename Bits>
GLASS_INLINE void pack_row(const PlaneLayout& layout, const uint8_t* row, uint8_t* packed,
                           PackVector& broken) {
  const int64_t num_codes = layout.num_codes;
  const int planes = layout.planes;
  PackVector wrong = broken;  // a copy: what is written to `packed` cannot change it
  const PackVector last = PackVector{} + static_cast<uint8_t>(layout.num_tiers - 1);
  for (const Tile& tile : layout.tiles) {
    const int width = tile.bytes;
    const int64_t offset = tile.offset, first = tile.code;
    const int codes = std::min(8 * width, kPackCodes);
    for (int at = 0; at < 8 * width; at += codes) {
      const int64_t left = num_codes - first - at;
      PackVector bytes = {};
      if (left >= kPackCodes && codes == kPackCodes) {
        Bytes<kPackCodes>::load(bytes, row + first + at);
      } else if (left > 0) {
        std::memcpy(&bytes, row + first + at, std::min<int64_t>(left, codes));
      }
      wrong |= (PackVector)(bytes > last);
      uint8_t* to = packed + offset + at / 8;
      for (int plane = 0; plane < planes; ++plane, to += width) {
        const uint32_t bits = Bits::of(bytes, plane);
        if (codes == kPackCodes) {
          std::memcpy(to, &bits, 4);
        } else {
          std::memcpy(to, &bits, 2);
        }
      }
    }
  }
  broken = wrong;
}

GLASS_INLINE bool any(const PackVector& mask) {
  const PackWords words = (PackWords)mask;
  return (words[0] | words[1] | words[2] | words[3]) != 0;
}

}  // namespace glass
