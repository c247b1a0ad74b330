"""The small vision-language backbone: attention maps chosen by words, read as positions.

A convolutional tower sees the image; the instruction modulates it (FiLM, Perez et al. 2018,
arXiv 1709.07871) and queries attention maps for referent A, referent B and, without words, the
robot's own pusher. The expected cell of a map (soft-argmax) becomes a position on the board
through a learned cubic of the image coordinates; a second look with distance penalties finds other
blocks near those positions. What the heads see are positions, relations and a learned context.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from efm_model.config import SmallBackboneConfig
from efm_model.geometry import CENTRES, RELATIONS, behind_point, relations
from efm_model.language import ROLES, RoleReader

PUSHER, REFERENT_A, REFERENT_B = 0, 1, 2
NAMED_MAPS = 3
_KEY = 32  # channels of the map from which positions are read


class Grounding(NamedTuple):
    """What the backbone found in one camera's image, for pre-training and for pictures.

    positions: (B, 3, 2) of pusher, A, B in dm, robot base frame.
    maps: (B, 3, cells) log-attention of pusher, A, B; rows of exp(maps) sum to 1.
    others: (B, cells) logit that a cell shows a block that is neither A nor B.
    cells: (cells, 2) the board position of each cell's centre in dm.
    context: (B, n) the learned part of the features.
    features: (B, features) standardised; what the heads see.
    """

    positions: Tensor
    maps: Tensor
    others: Tensor
    cells: Tensor
    context: Tensor
    features: Tensor


class FilmBlock(nn.Module):
    """Residual 3x3 convolution whose channels are scaled and shifted by the instruction."""

    def __init__(self, width: int, language: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, width)
        self.film = nn.Linear(language, 2 * width)

    def forward(self, x: Tensor, language: Tensor) -> Tensor:
        """(B, width, h, w), (B, language) -> (B, width, h, w)."""
        scale, shift = self.film(language)[:, :, None, None].chunk(2, dim=1)
        return x + functional.relu(self.norm(self.conv(x)) * (1.0 + scale) + shift)


def _cubic(uv: Tensor) -> Tensor:
    """Image coordinates (..., 2) in -1..1 -> the ten monomials up to degree three (..., 10)."""
    u, v = uv[..., 0], uv[..., 1]
    one = torch.ones_like(u)
    terms = [one, u, v, u * u, u * v, v * v, u * u * u, u * u * v, u * v * v, v * v * v]
    return torch.stack(terms, dim=-1)


class SmallTrunk(nn.Module):
    """See the module's description. Roughly 0.2 M parameters, 64 x 64 pixels."""

    name = "small"
    pixel_mean: Tensor
    pixel_std: Tensor
    cell_uv: Tensor
    board_origin: Tensor
    board_scale: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self,
        config: SmallBackboneConfig,
        cameras: int = 1,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        self.config = config
        self.feature_size = cameras * config.features
        self._build_tower(config)
        self._build_readout(config)
        self.register_buffer("pixel_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        side = config.resolution // 2
        line = (torch.arange(side) + 0.5) / side * 2.0 - 1.0
        v, u = torch.meshgrid(line, line, indexing="ij")
        self.register_buffer("cell_uv", torch.stack([u, v], -1).view(-1, 2), persistent=False)

    def _build_tower(self, c: SmallBackboneConfig) -> None:
        self.reader = RoleReader(c.vocabulary, c.max_tokens, c.words, c.language)
        self.stem = nn.Conv2d(3, c.stem, 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.GroupNorm(4, c.stem)
        self.fine = nn.Conv2d(c.stem, c.fine, 3, padding=1, bias=False)
        self.fine_norm = nn.GroupNorm(4, c.fine)
        self.down = nn.Conv2d(c.fine, c.width, 3, stride=2, padding=1, bias=False)
        self.down_norm = nn.GroupNorm(4, c.width)
        self.blocks = nn.ModuleList(
            FilmBlock(c.width, ROLES * c.language) for _ in range(c.blocks)
        )
        self.key_coarse = nn.Conv2d(c.width, _KEY, 1)
        self.key_fine = nn.Conv2d(c.fine, _KEY, 1)

    def _build_readout(self, c: SmallBackboneConfig) -> None:
        self.pusher_query = nn.Parameter(torch.randn(_KEY))
        self.referent_query = nn.Linear(c.language, _KEY)
        self.free_query = nn.Linear(c.language, max(c.free_maps, 1) * _KEY)
        self.others_query = nn.Linear(2 * c.language, _KEY + 1)
        self.board = nn.Parameter(torch.randn(10, 2) * 0.05)
        self.register_buffer("board_origin", torch.zeros(2))
        self.register_buffer("board_scale", torch.ones(2))
        self.correct1 = nn.Linear(_KEY + 2, 64)
        self.correct2 = nn.Linear(64, 2)
        self.reach = nn.Parameter(torch.ones(CENTRES))
        explicit = RELATIONS + 4 * CENTRES + NAMED_MAPS
        pooled = c.width + (NAMED_MAPS + c.free_maps) * _KEY + 2 * c.free_maps
        self.context1 = nn.Linear(pooled + explicit, 128)
        self.context2 = nn.Linear(128, c.features - explicit)
        self.register_buffer("feature_mean", torch.zeros(c.features))
        self.register_buffer("feature_std", torch.ones(c.features))

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Images uint8 (B, cameras, H, W, 3), tokens int64 (B, L) -> features (B, feature_size)."""
        batch, cameras = images.shape[:2]
        words = tokens.repeat_interleave(cameras, dim=0) if cameras > 1 else tokens
        features = self.ground(images.flatten(0, 1), words).features
        return features.view(batch, cameras * self.config.features)

    def ground(self, images: Tensor, tokens: Tensor) -> Grounding:
        """One image each, uint8 (B, H, W, 3), tokens int64 (B, L) -> `Grounding`."""
        roles = self.reader(tokens)
        coarse, keys = self._see(images, roles)
        logits, others = self._query(keys, roles)
        maps = torch.log_softmax(logits, dim=-1)
        attention = maps.exp()
        uv = attention @ self.cell_uv
        pooled = attention @ keys.transpose(1, 2)
        positions = self._positions(uv[:, :NAMED_MAPS], pooled[:, :NAMED_MAPS])
        cells = self._to_board(self.cell_uv)
        certainty = maps[:, :NAMED_MAPS].amax(dim=-1)
        explicit = torch.cat(
            [
                relations(positions[:, 0], positions[:, 1], positions[:, 2]),
                self._neighbours(positions, others, cells),
                certainty,
            ],
            dim=-1,
        )
        seen = [coarse.mean((2, 3)), pooled.flatten(1), uv[:, NAMED_MAPS:].flatten(1), explicit]
        context = self.context2(functional.relu(self.context1(torch.cat(seen, dim=-1))))
        features = torch.cat([explicit, torch.tanh(context)], dim=-1)
        features = (features - self.feature_mean) / self.feature_std
        return Grounding(positions, maps[:, :NAMED_MAPS], others, cells, context, features)

    def _see(self, images: Tensor, roles: Tensor) -> tuple[Tensor, Tensor]:
        """Images and role vectors -> coarse map (B, width, h/2, w/2), keys (B, _KEY, cells)."""
        x = images.permute(0, 3, 1, 2).float() / 255.0
        side = self.config.resolution
        if x.shape[-2:] != (side, side):
            x = functional.interpolate(x, size=(side, side), mode="area")
        x = ((x - self.pixel_mean) / self.pixel_std).contiguous(memory_format=torch.channels_last)
        x = functional.relu(self.stem_norm(self.stem(x)))
        fine = functional.relu(self.fine_norm(self.fine(x)))
        coarse = functional.relu(self.down_norm(self.down(fine)))
        language = roles.flatten(1)
        for block in self.blocks:
            coarse = block(coarse, language)
        up = functional.interpolate(self.key_coarse(coarse), scale_factor=2.0, mode="nearest")
        return coarse, (up + self.key_fine(fine)).flatten(2)

    def _query(self, keys: Tensor, roles: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of all maps (B, maps, cells) and of other blocks (B, cells)."""
        batch = keys.shape[0]
        pusher = self.pusher_query.view(1, 1, _KEY).expand(batch, 1, _KEY)
        queries = [pusher, self.referent_query(roles[:, :2])]
        if self.config.free_maps:
            queries.append(self.free_query(roles[:, 2]).view(batch, -1, _KEY))
        ask = self.others_query(roles[:, :2].flatten(1))
        queries.append(ask[:, None, :_KEY])
        answers = torch.cat(queries, dim=1) @ keys
        return answers[:, :-1], answers[:, -1] + ask[:, _KEY:]

    def _to_board(self, uv: Tensor) -> Tensor:
        """Image coordinates (..., 2) in -1..1 -> board position (..., 2) in dm."""
        return self.board_origin + self.board_scale * (_cubic(uv) @ self.board)

    def _positions(self, uv: Tensor, pooled: Tensor) -> Tensor:
        """Expected cells and what is seen there -> positions (B, 3, 2) in dm."""
        hidden = functional.relu(self.correct1(torch.cat([pooled, uv], dim=-1)))
        result: Tensor = self._to_board(uv) + 0.1 * self.correct2(hidden)
        return result

    def _neighbours(self, positions: Tensor, others: Tensor, cells: Tensor) -> Tensor:
        """Other blocks near pusher, A, B and behind A: vector (dm), presence, spread each."""
        behind = behind_point(positions[:, REFERENT_A], positions[:, REFERENT_B])
        centres = torch.cat([positions, behind[:, None]], dim=1).detach()
        # |cell - centre|^2 as a product of matrices, round the board's middle for accuracy.
        here, there = centres - self.board_origin, cells - self.board_origin
        lengths = there.square().sum(-1) + here.square().sum(-1, keepdim=True)
        square = (lengths - 2.0 * here @ there.T).clamp_min(0.0)
        near = functional.softplus(self.reach)[None, :, None] * square
        logits = others[:, None] - near
        weights = torch.softmax(logits, dim=-1)
        vector = weights @ there - here
        distance = (weights * near).sum(-1)
        presence = torch.tanh(logits.amax(dim=-1) / 4.0)
        return torch.cat([vector.flatten(1), presence, torch.exp(-distance)], dim=-1)

    def calibrate(self, uv: Tensor, board: Tensor) -> None:
        """Start the map from image to board at the least-squares cubic through known points.

        uv (M, 2) image coordinates in -1..1, board (M, 2) in dm. Without it the attention maps and
        this map would have to find each other from nothing, which fails.
        """
        self.board_origin.copy_(board.mean(0))
        self.board_scale.copy_(board.std(0))
        scaled = ((board - self.board_origin) / self.board_scale).double()
        solution = torch.linalg.lstsq(_cubic(uv.double()), scaled).solution
        with torch.no_grad():  # rounded: the solver's last digits differ from run to run
            self.board.copy_(solution.round(decimals=6))

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Set the fixed affine of the features (features,): called once, after pre-training."""
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std.clamp_min(1e-3))
