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
  m.def("bucket_history(Tensor sid1, Tensor offsets, int num_codes) -> (Tensor, Tensor)");
  m.def(
      "hard_search(Tensor order, Tensor bucket_offsets, Tensor query_sid1, Tensor? neighbours,"
      " int max_items, int min_items) -> (Tensor, Tensor)");
  m.def(
      "hard_search_attention(Tensor query, Tensor key_table, Tensor value_table, Tensor tokens,"
      " Tensor positions, Tensor lengths, float scale) -> Tensor");
  m.def(
      "hard_search_attention_backward(Tensor grad, Tensor query, Tensor key_table,"
      " Tensor value_table, Tensor tokens, Tensor positions, Tensor lengths, float scale)"
      " -> (Tensor, Tensor, Tensor)");
  m.def(
      "gated_fusion(Tensor short, Tensor retrieved, Tensor weight, Tensor bias,"
      " Tensor? has_retrieval, Tensor? gate_input) -> (Tensor, Tensor)");
  m.def(
      "gated_fusion_backward(Tensor? grad_out, Tensor? grad_gate, Tensor short, Tensor retrieved,"
      " Tensor weight, Tensor gate, Tensor? has_retrieval, Tensor? gate_input, bool of_inputs,"
      " bool of_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "codebook_assign(Tensor query, Tensor codebook, Tensor? target, float temperature)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "codebook_assign_backward(Tensor? grad_assigned, Tensor? grad_loss, Tensor query,"
      " Tensor codebook, Tensor? target, Tensor log_sum_exp, float temperature, bool of_query,"
      " bool of_codebook) -> (Tensor, Tensor)");
  m.def(
      "trie_beam_step(Tensor logits, Tensor scores, Tensor nodes, Tensor child_offsets,"
      " Tensor child_codes, int max_children, int beam_width, bool mask_before_softmax,"
      " Tensor? filter_offsets, Tensor? filter_nodes, bool filter_keeps)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("beam_step(Tensor logits, Tensor scores, int beam_width) -> (Tensor, Tensor, Tensor)");
  m.def(
      "encoder_stack(Tensor x, Tensor? valid, Tensor bias, Tensor qkv, Tensor output, Tensor up,"
      " Tensor down, Tensor memory) -> Tensor");
  m.def("residual_quantize(Tensor x, Tensor[] codebooks, bool normalize_residual) -> Tensor");
  m.def("pack_token_rows(Tensor keys, Tensor values) -> Tensor");
  m.def(
      "decoder_step(Tensor x, Tensor[] weights, Tensor scale, Tensor bias, Tensor[] keys,"
      " Tensor[] values, Tensor? mask, Tensor[] past, Tensor? ancestors, Tensor? tokens,"
      " Tensor? positions, Tensor? lengths, float fixed_gate, bool gate_reads_state,"
      " bool empty_is_short) -> (Tensor, Tensor)");
  m.def("trie_build(Tensor sids, int[] codebook_sizes) -> Tensor[]");
  m.def("trie_restrict(Tensor[] offsets, Tensor[] codes, Tensor kept) -> Tensor[]");
  m.def(
      "trie_append(Tensor[] offsets, Tensor[] codes, Tensor[] added_offsets,"
      " Tensor[] added_codes) -> Tensor[]");
  m.def(
      "trie_filter(Tensor[] offsets, Tensor[] codes, Tensor leaf_of_item, Tensor? excluded,"
      " Tensor? excluded_offsets, Tensor? allowed, Tensor? allowed_offsets) -> Tensor[]");
}
