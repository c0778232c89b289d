"""Write cloaks.npz: masks by the published algorithms, written here once more with PyTorch, NumPy and cvxpy.

One person at a time, every projection by cvxpy, images as bytes' scale 0..255 where the released code has them so. Run
where PyTorch is installed: `python tests/golden/make_cloaks.py`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import cvxpy  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from golden import cloak_inputs as given  # noqa: E402
from golden import twins  # noqa: E402
from golden.fill import tensor  # noqa: E402
from torch import nn  # noqa: E402

EPSILON, STEP = 8.0, 1.0
WARMUP = 5
Loss = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def network() -> nn.Module:
    """The twin of a tiny IR network, filled by names."""
    made = twins.IResNet(given.SIZE, given.UNITS, given.CHANNELS, given.EMBEDDING).eval()
    for name, value in made.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            value.copy_(torch.from_numpy(tensor(name, tuple(value.shape))))
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made


def maps_of(model: nn.Module) -> list[nn.Module]:
    """Convolutions of more than one pixel, in the order in which they are computed."""
    return [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]


def features(model: nn.Module, grey: torch.Tensor) -> torch.Tensor:
    return model(grey / 255)


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / torch.linalg.norm(x, dim=1, keepdim=True)


def nearest(rows: np.ndarray, point: np.ndarray, lower: float | None, upper: float | None) -> np.ndarray:
    """The point of the hull of `rows` nearest to `point`."""
    w = cvxpy.Variable(len(rows))
    limits = [cvxpy.sum(w) == 1]
    limits += [] if lower is None else [w >= lower]
    limits += [] if upper is None else [w <= upper]
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(w @ rows - point)), limits).solve(cvxpy.CLARABEL)
    return np.asarray(w.value @ rows)


def own_distance(adversarial: torch.Tensor, originals: torch.Tensor, step: int) -> torch.Tensor:
    return nn.functional.mse_loss(unit(adversarial), unit(originals))


def all_pairs(adversarial: torch.Tensor, originals: torch.Tensor, step: int) -> torch.Tensor:
    return -(unit(adversarial) @ unit(originals).T).mean()


def hull_distance(kind: str) -> Loss:
    def loss(adversarial: torch.Tensor, originals: torch.Tensor, step: int) -> torch.Tensor:
        count = len(originals)
        bounds: tuple[float | None, float | None] = {
            "affine": (None, None),
            "centre": (1 / count, 1 / count),
            "convex": (1 / count, 1 / count) if step < WARMUP else (0.0, 1.0),
        }[kind]
        rows = unit(originals).detach().double().numpy()
        moving = unit(adversarial)
        if bounds[0] == bounds[1] is not None:
            points = np.repeat(rows.mean(0, keepdims=True), count, 0)
        else:
            points = np.stack([nearest(rows, x, *bounds) for x in moving.detach().double().numpy()])
        return nn.functional.mse_loss(moving, torch.from_numpy(points).float())

    return loss


def gradient(model: nn.Module, images: torch.Tensor, known: torch.Tensor, loss: Loss, step: int) -> torch.Tensor:
    images = images.detach().requires_grad_()
    loss(features(model, images), known, step).backward()
    assert images.grad is not None
    return images.grad


def fi_uap(model: nn.Module, images: torch.Tensor, noise: torch.Tensor, loss: Loss) -> torch.Tensor:
    """One mask [C, H, W] in grey levels for images [n, C, H, W] in 0..255."""
    known, adversarial = features(model, images), images + noise
    for step in range(given.STEPS):
        found = gradient(model, adversarial, known, loss, step).mean(0)
        adversarial = adversarial + STEP * found.sign()
        mask = (adversarial - images).mean(0).clamp(-EPSILON, EPSILON)
        adversarial = (images + mask).clamp(0, 255)
    return mask


def momentum(
    model: nn.Module, images: torch.Tensor, noise: torch.Tensor, loss: Loss, person: int, *, dropout: bool
) -> torch.Tensor:
    """The same with summed gradients, each step's divided by their mean size per column, and signs per image."""
    call, number = 0, 0

    def drop(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        nonlocal number
        shape = (given.PERSONS * given.PER_PERSON, *output.shape[2:], output.shape[1])
        own = given.kept(call, number, shape)[person * given.PER_PERSON : (person + 1) * given.PER_PERSON]
        number += 1
        return output * torch.from_numpy(own).permute(0, 3, 1, 2) / (1 - given.RATE)

    hooks = [module.register_forward_hook(drop) for module in maps_of(model)] if dropout else []
    sums, adversarial = torch.zeros_like(images), images + noise
    for step in range(given.MOMENTUM_STEPS):
        call, number = 0, 0
        known = features(model, images)
        call, number = 1, 0
        found = gradient(model, adversarial, known, loss, step)
        sums += found / found.abs().mean((0, 1, 2), keepdim=True)
        adversarial = adversarial + STEP * sums.sign()
        mask = (adversarial - images).mean(0).clamp(-EPSILON, EPSILON)
        adversarial = (images + mask).clamp(0, 255)
    for hook in hooks:
        hook.remove()
    return mask


def sga(model: nn.Module, images: torch.Tensor, noise: torch.Tensor, person: int) -> torch.Tensor:
    known, mask, number = features(model, images), noise, 0
    for _ in range(given.SGA_STEPS):
        inner, found = mask, []
        for _ in range(given.DRAWS):
            chosen = torch.from_numpy(given.draws()[number, person])
            batch = inner.repeat(given.MINIBATCH, 1, 1, 1).requires_grad_()
            made = features(model, (images[chosen] + batch).clamp(0, 255))
            own_distance(made, known[chosen], 0).backward()
            assert batch.grad is not None
            found.append(batch.grad.mean(0))
            inner = (inner + 0.8 * found[-1].sign()).clamp(-EPSILON, EPSILON)
            number += 1
        mask = (mask + 0.8 * torch.stack(found).mean(0).sign()).clamp(-EPSILON, EPSILON)
    return mask


class Lpips(nn.Module):
    """LPIPS' distance of two images [B, 3, H, W] in [-1, 1], by AlexNet's convolutions as torchvision numbers them."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1)]
        layers: list[nn.Module] = []
        for number, (inputs, outputs, kernel, stride, padding) in enumerate([*convolutions, (256, 256, 3, 1, 1)]):
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
            layers += [nn.MaxPool2d(3, 2)] if number < 2 else []
        self.features = nn.Sequential(*layers)
        for name, value in self.state_dict().items():
            value.copy_(torch.from_numpy(tensor(name, tuple(value.shape))))
        shapes = [(1, channels, 1, 1) for channels in (64, 192, 384, 256, 256)]
        self.heads = [torch.from_numpy(given.head(place, shape)) for place, shape in enumerate(shapes)]
        self.shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
        self.scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, found = (x - self.shift) / self.scale, []
        for layer in self.features:
            x = layer(x)
            found += [x / ((x**2).sum(1, keepdim=True).sqrt() + 1e-10)] if isinstance(layer, nn.ReLU) else []
        return found

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.maps(one), self.maps(other), self.heads, strict=True)
        return torch.stack([nn.functional.conv2d((a - b) ** 2, head).mean((1, 2, 3)) for a, b, head in pairs]).sum(0)


def lowkey(model: nn.Module, image: torch.Tensor, noise: torch.Tensor, lpips: nn.Module | None = None) -> torch.Tensor:
    """The change [C, H, W] of one image [C, H, W]; both on the scale 0..1 as released."""
    window = torch.exp(-((torch.arange(7) - 3.0) ** 2) / (2 * 3.0**2))
    window = torch.outer(window, window) / window.sum() ** 2
    kernel = window.expand(3, 1, 7, 7)

    def smooth(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(nn.functional.pad(x, (3, 3, 3, 3), mode="reflect"), kernel, groups=3)

    def looks(x: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = []
        hooks = [m.register_forward_hook(lambda m, i, output: maps.append(output)) for m in maps_of(model)]
        model(x)
        for hook in hooks:
            hook.remove()
        return [m / torch.sqrt((m**2).sum(1, keepdim=True) + 1e-10) for m in maps[:5]]

    original = image[None]
    known = model(original)
    adversarial = original + noise[None]
    for _ in range(given.LOWKEY_STEPS):
        adversarial = adversarial.detach().requires_grad_()
        away = 0.0
        for made in (model(adversarial), model(smooth(adversarial))):
            away = away + ((made - known) ** 2).mean() / known.norm() / 2
        perceptual = 0.0
        if lpips is not None:
            perceptual = lpips(2 * original - 1, 2 * adversarial - 1).sum()
        else:
            for a, b in zip(looks(original), looks(adversarial), strict=True):
                perceptual = perceptual + ((a - b) ** 2).sum(1).mean()
        (away - 0.05 * perceptual).backward()
        assert adversarial.grad is not None
        adversarial = adversarial + 0.0025 * adversarial.grad.sign()
    return (adversarial.clamp(0, 1) - original)[0].detach()


def main() -> None:
    torch.set_num_threads(1)
    model = network()
    photos = torch.from_numpy(given.faces()).permute(0, 1, 4, 2, 3).contiguous()
    noise = torch.from_numpy(given.noise(EPSILON)).permute(0, 1, 4, 2, 3) * 255
    shared = torch.from_numpy(given.noise(EPSILON, per_image=False)).permute(0, 3, 1, 2) * 255
    faint = torch.from_numpy(given.noise(1.275)).permute(0, 1, 4, 2, 3)
    losses = {
        "fi-uap": own_distance,
        "fi-uap-plus": all_pairs,
        "opom-affine-hull": hull_distance("affine"),
        "opom-class-centre": hull_distance("centre"),
        "opom-convex-hull": hull_distance("convex"),
    }
    masks: dict[str, torch.Tensor] = {}
    grey = photos * 255
    persons = range(given.PERSONS)
    for name, loss in losses.items():
        masks[name] = torch.stack([fi_uap(model, grey[p], noise[p], loss) for p in persons])
        masks[f"{name}-dfanet"] = torch.stack(
            [momentum(model, grey[p], noise[p], loss, p, dropout=False) for p in persons]
        )
    masks["dropout"] = torch.stack(
        [momentum(model, grey[p], noise[p], losses["opom-convex-hull"], p, dropout=True) for p in persons]
    )
    masks["fim"] = torch.stack(
        [fi_uap(model, grey[p, i : i + 1], noise[p, i : i + 1], own_distance) for p in persons for i in range(2)]
    )
    masks["sga-uap"] = torch.stack([sga(model, grey[p], shared[p], p) for p in persons])
    masks = {name: values / 255 for name, values in masks.items()}
    masks["lowkey"] = torch.stack([lowkey(model, photos[p, i], faint[p, i]) for p in persons for i in range(2)])
    looks = Lpips()
    masks["lowkey-lpips"] = torch.stack(
        [lowkey(model, photos[p, i], faint[p, i], looks) for p in persons for i in range(2)]
    )
    arrays = {name: values.permute(0, 2, 3, 1).numpy().astype(np.float16) for name, values in masks.items()}
    faces = 2 * photos.reshape(-1, *photos.shape[2:]) - 1
    arrays["lpips"] = looks(faces, faces.flip(0)).detach().numpy()
    np.savez_compressed(HERE / "cloaks.npz", **arrays)
    print(f"cloaks.npz: {(HERE / 'cloaks.npz').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
