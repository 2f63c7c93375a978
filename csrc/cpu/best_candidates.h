// The best candidates of one request: of equal scores, the one that comes first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

namespace glass {

// Scores as whole numbers that rise as scores fall. Not for NaN, nor for -0 beside 0.
template <typename Real>
struct Rank {
  using Bits = std::conditional_t<sizeof(Real) == 4, uint32_t, uint64_t>;
  static constexpr Bits kSign = Bits{1} << (8 * sizeof(Bits) - 1);

  static Bits of(Real score) {
    Bits bits;
    std::memcpy(&bits, &score, sizeof bits);
    return bits & kSign ? bits : ~(bits | kSign);
  }
  static Real score(Bits rank) {
    const Bits bits = rank & kSign ? rank : ~rank & ~kSign;
    Real score;
    std::memcpy(&score, &bits, sizeof score);
    return score;
  }
};

template <typename Real>
class BestCandidates {
  // rank and place in one number: the smallest is the best
  using Bits = typename Rank<Real>::Bits;
  __extension__ typedef unsigned __int128 Wide;
  using Key = std::conditional_t<sizeof(Real) == 4, uint64_t, Wide>;
  static constexpr int kShift = 8 * sizeof(Bits);

 public:
  explicit BestCandidates(int64_t wanted)
      : wanted_(wanted), room_(2 * wanted + kSpare), keys_(new Key[room_]) {}

  void clear() {
    count_ = 0;
    threshold_ = -std::numeric_limits<Real>::infinity();
  }

  // What a candidate that comes after all so far must exceed.
  Real threshold() const { return threshold_; }

  // `place` rises in the order in which equal scores are wanted.
  void add(Real score, uint32_t place) {
    keys_[count_++] = Key{Rank<Real>::of(score)} << kShift | place;
    if (count_ == room_) keep_wanted();
  }

  // Sorts; returns how many there are.
  int64_t finish() {
    if (count_ > wanted_) keep_wanted();
    if (!std::is_sorted(keys_.get(), keys_.get() + count_)) {
      std::sort(keys_.get(), keys_.get() + count_);
    }
    return count_;
  }
  Real score(int64_t i) const { return Rank<Real>::score(static_cast<Bits>(keys_[i] >> kShift)); }
  uint32_t place(int64_t i) const { return static_cast<uint32_t>(keys_[i]); }

 private:
  static constexpr int64_t kSpare = 8;  // so that narrow beams need not select at every turn

  __attribute__((noinline)) void keep_wanted() {
    Key* last = keys_.get() + wanted_ - 1;
    std::nth_element(keys_.get(), last, keys_.get() + count_);
    count_ = wanted_;
    threshold_ = Rank<Real>::score(static_cast<Bits>(*last >> kShift));
  }

  int64_t wanted_, room_, count_ = 0;
  Real threshold_ = -std::numeric_limits<Real>::infinity();
  std::unique_ptr<Key[]> keys_;
};

}  // namespace glass
