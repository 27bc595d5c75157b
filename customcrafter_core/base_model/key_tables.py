"""Which module of VideoCrafter2's checkpoint is which module of diffusers and transformers.

A table pairs module names, original -> ours. A parameter is renamed by the longest prefix that stands in the table;
the rest of its name stays. Read backwards, the same table writes checkpoints and LoRA files in the original names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .config import TextConfig, UNetConfig, VAEConfig

Table = Mapping[str, str]
Pairs = Iterator[tuple[str, str]]


def rename(name: str, table: Table) -> str | None:
    """Translate a parameter or module name; None if no prefix of it is known."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = table.get(".".join(parts[:end]))
        if module is not None:
            return ".".join([module, *parts[end:]])
    return None


def reverse(table: Table) -> dict[str, str]:
    """The same table, ours -> original."""
    return {ours: original for original, ours in table.items()}


def unet_table(config: UNetConfig) -> dict[str, str]:
    """Modules below ``model.diffusion_model.`` -> modules of `UNet3DConditionModel`."""
    table = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "fps_embedding.0": "time_embedding.fps_embedding.linear_1",
        "fps_embedding.2": "time_embedding.fps_embedding.linear_2",
        "init_attn.0": "transformer_in",
        "input_blocks.0.0": "conv_in",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.temp_attentions.0",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }
    table.update(_resnet("middle_block.0", "mid_block", 0))
    table.update(_resnet("middle_block.3", "mid_block", 1))
    table.update(_down_blocks(config))
    table.update(_up_blocks(config))
    return table


def _down_blocks(config: UNetConfig) -> Pairs:
    index, last = 1, len(config.block_out_channels) - 1
    for level, attends in enumerate(config.attends):
        block = f"down_blocks.{level}"
        for j in range(config.layers_per_block):
            yield from _layer(f"input_blocks.{index}", block, j, attends)
            index += 1
        if level != last:
            yield f"input_blocks.{index}.0.op", f"{block}.downsamplers.0.conv"
            index += 1


def _up_blocks(config: UNetConfig) -> Pairs:
    index, last = 0, len(config.block_out_channels) - 1
    for level, attends in enumerate(reversed(config.attends)):
        block = f"up_blocks.{level}"
        for j in range(config.layers_per_block + 1):
            yield from _layer(f"output_blocks.{index}", block, j, attends)
            index += 1
        if level != last:  # the upsampler sits behind the level's last layer
            yield f"output_blocks.{index - 1}.{3 if attends else 1}.conv", f"{block}.upsamplers.0.conv"


def _layer(original: str, block: str, j: int, attends: bool) -> Pairs:
    yield from _resnet(f"{original}.0", block, j)
    if attends:
        yield f"{original}.1", f"{block}.attentions.{j}"
        yield f"{original}.2", f"{block}.temp_attentions.{j}"


def _resnet(original: str, block: str, j: int) -> Pairs:
    ours = f"{block}.resnets.{j}"
    yield f"{original}.in_layers.0", f"{ours}.norm1"
    yield f"{original}.in_layers.2", f"{ours}.conv1"
    yield f"{original}.emb_layers.1", f"{ours}.time_emb_proj"
    yield f"{original}.out_layers.0", f"{ours}.norm2"
    yield f"{original}.out_layers.3", f"{ours}.conv2"
    yield f"{original}.skip_connection", f"{ours}.conv_shortcut"
    yield f"{original}.temopral_conv", f"{block}.temp_convs.{j}"  # spelt so in the checkpoint


def text_table(config: TextConfig) -> dict[str, str]:
    """Modules below ``cond_stage_model.model.`` -> modules of `CLIPTextModel`, without its ``text_model.`` prefix.

    ``attn.in_proj_weight`` and ``attn.in_proj_bias`` hold q, k and v in one and are split by `conversion`.
    """
    table = {
        "token_embedding": "embeddings.token_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final": "final_layer_norm",
    }
    for i in range(config.num_hidden_layers):
        original, ours = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
        table[f"{original}.ln_1"] = f"{ours}.layer_norm1"
        table[f"{original}.ln_2"] = f"{ours}.layer_norm2"
        table[f"{original}.attn"] = f"{ours}.self_attn"
        table[f"{original}.mlp.c_fc"] = f"{ours}.mlp.fc1"
        table[f"{original}.mlp.c_proj"] = f"{ours}.mlp.fc2"
    return table


def vae_table(config: VAEConfig) -> dict[str, str]:
    """Modules below ``first_stage_model.`` -> modules of `AutoencoderKL`."""
    levels, blocks = len(config.block_out_channels), config.layers_per_block
    table = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        table[f"{half}.conv_in"] = f"{half}.conv_in"
        table[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        table[f"{half}.conv_out"] = f"{half}.conv_out"
        table.update(_vae_resnet(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0"))
        table.update(_vae_resnet(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1"))
        attention = f"{half}.mid_block.attentions.0"
        for original, ours in (
            ("norm", "group_norm"),
            ("q", "to_q"),
            ("k", "to_k"),
            ("v", "to_v"),
            ("proj_out", "to_out.0"),
        ):
            table[f"{half}.mid.attn_1.{original}"] = f"{attention}.{ours}"
    for i in range(levels):
        for j in range(blocks):
            table.update(_vae_resnet(f"encoder.down.{i}.block.{j}", f"encoder.down_blocks.{i}.resnets.{j}"))
        for j in range(blocks + 1):  # the original counts decoder levels from the image side
            table.update(_vae_resnet(f"decoder.up.{levels - 1 - i}.block.{j}", f"decoder.up_blocks.{i}.resnets.{j}"))
        if i < levels - 1:
            table[f"encoder.down.{i}.downsample.conv"] = f"encoder.down_blocks.{i}.downsamplers.0.conv"
            table[f"decoder.up.{levels - 1 - i}.upsample.conv"] = f"decoder.up_blocks.{i}.upsamplers.0.conv"
    return table


def _vae_resnet(original: str, ours: str) -> Pairs:
    for part in ("norm1", "conv1", "norm2", "conv2"):
        yield f"{original}.{part}", f"{ours}.{part}"
    yield f"{original}.nin_shortcut", f"{ours}.conv_shortcut"
