// Every schema of the library, one place. Kernels register themselves in cpu/<op>.cpp.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(glass, m) {
  m.def(
      "sid_tier(Tensor item_ids, Tensor offsets, Tensor table, int num_tiers, bool normalize)"
      " -> Tensor");
  m.def(
      "sid_tier_from_embeddings(Tensor item_ids, Tensor offsets, Tensor item_embeddings,"
      " Tensor prototypes, Tensor edges, bool normalize) -> Tensor");
  m.def("tier_table(Tensor item_embeddings, Tensor prototypes, Tensor edges) -> Tensor");
  m.def(
      "sid_tier_update_(Tensor(a!) counts, Tensor users, Tensor item_ids, Tensor table,"
      " bool remove) -> ()");
}
