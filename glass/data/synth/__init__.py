"""Made-up data sets in the files of published ones, of any size, with structure to be found."""

from glass.data.synth.taobao_mm import SynthSizes, write_taobao_mm

__all__ = ["SynthSizes", "write_taobao_mm"]
