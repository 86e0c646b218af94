"""Which studies a page of results has, and which findings are read from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import studies_findings as found
from studies_findings import Finding


class Study(NamedTuple):
    """One run of a command."""

    key: str
    title: str
    command: str  # after manifold-jax
    pictures: Mapping[str, str] = {}  # captions by the stem of the file
    about: str = ""  # what is done, and how to read it
    folder: str = ""  # of the runs; those of one share what was trained
    split: str = ""  # column by which the table is divided

    @property
    def experiment(self) -> str:
        """Name of the experiment, and of its record."""
        command, *words = self.command.split()
        return command if not words or words[0].startswith("-") else words[0]


class Page(NamedTuple):
    """Studies under one title; a finding names the studies it is read from."""

    title: str
    about: str
    studies: Sequence[Study]
    findings: Sequence[tuple[Sequence[str], Finding]] = ()


_SPRITES = "--steps 6000 --gamma 10"
_COIL = "--data coil20 --path coil-20-proc.zip --steps 3000 --seeds 2"

LAYERS = Page(
    "Layer by layer: a beta-VAE on manifolds that are known",
    """\
Runs that differ by weights, order of the data and noise. Images of 32 x 32 pixels, a beta-VAE of half the
published width (16 channels, 64 hidden units), 6000 images, batches of 32, Adam at 1e-3; the factors scale
and orientation are measured on a grid of 9 x 16 points a class, others rest in the middle. SiLU, so that
every layer has second derivatives, unless a table says otherwise. The published network, ReLU and size:
[figure 6](figure6.md). What the measurement costs: [cost](layers_cost.md).""",
    (
        Study(
            "latents",
            "Does the model learn?",
            f"layers latents {_SPRITES}",
            {"traversals": "Traversals of the latents of run 0"},
            "Variant B with a capacity of 20 nats. Of what can be explained beyond the mean image, "
            "the share that is; the latent that shares most information with each factor, and that "
            "information over its entropy.",
            "sprites",
        ),
        Study(
            "evolution",
            "Curvature, reach and classes in every layer, before and after training",
            f"layers evolution {_SPRITES}",
            {
                "evolution_symlog": "All quantities at the checkpoints",
                "evolution_classes": "Every class by itself",
            },
            "Scaled to unit volume; +- is the deviation over runs.",
            "sprites",
        ),
        Study(
            "sampled",
            "A sampled latent",
            f"layers sampled {_SPRITES}",
            {},
            "The decoder at z = mu, and at a latent with independent noise at every grid point, as "
            "the reference does.",
            "sprites",
        ),
        Study(
            "stencils",
            "Exact jets and stencils",
            f"layers stencils {_SPRITES}",
            {},
            "Windows of activations go from layer to layer. err: median relative error; known: share "
            "of points whose bar is below the tolerance; cover: share of these whose bar covers the "
            "error.",
            "sprites",
        ),
        Study(
            "spacing",
            "ReLU: a curvature that depends on the spacing",
            f"layers spacing {_SPRITES}",
            {"spacing": "Largest curvature against samples along the curve"},
            "The orientation of the ellipse as a closed curve, by stencils of order 2 in double precision.",
            "sprites",
        ),
        Study(
            "coil20_latents",
            "COIL-20: does the model learn?",
            f"layers latents {_COIL}",
            {"reconstructions": "Views and what the network makes of them"},
            "Objects 1 to 3; variant H, beta 4, squared errors.",
            "coil20",
        ),
        Study(
            "coil20_evolution",
            "COIL-20: every layer",
            f"layers evolution {_COIL}",
            {"evolution_symlog": "All quantities at the checkpoints"},
            "View and zoom are measured.",
            "coil20",
        ),
        Study("coil20_sampled", "COIL-20: a sampled latent", f"layers sampled {_COIL}", {}, "", "coil20"),
        Study(
            "classifier",
            "A classifier",
            "layers evolution --network classifier --factors 1 --steps 200 --seeds 2 --images 3000",
            {"evolution_symlog": "All quantities at the checkpoints"},
            "A LeNet with SiLU, and means in place of maxima, that tells the three shapes apart; "
            "scale is measured.",
        ),
    ),
    (
        (("evolution",), found.before_learning),
        (("evolution",), found.after_learning("evolution", "Sprites")),
        (("evolution",), found.every_class),
        (("coil20_evolution",), found.after_learning("coil20_evolution", "COIL-20")),
        (("sampled",), found.sampled_latent),
        (("stencils",), found.bars),
        (("spacing",), found.kinks),
    ),
)

_MNIST = "--data mnist --steps 3000"
_CIFAR = "--data cifar10 --steps 2000"

LEAF = Page(
    "The manifold a classifier sees",
    """\
Runs of `manifold-jax leaf` on MNIST (60 000 training images) and on a *lossy subset* of CIFAR-10 (10 000
training images decoded from JPEG copies: not exact CIFAR-10). Lengths are in normalised pixels, as in the
paper (Grementieri & Fioresi, SIAM J. Imaging Sci. 15, 2022). "full" steps are the paper's, always of the
same length; "controlled" ones stay on the leaf within the error control. By the protocols of the paper,
with intervals and pictures: [trace along the training](history.md), [Algorithm 1: ways to project a
step](algorithm.md), [across](across.md), [involutivity](involutivity.md), [denoising, detection,
generation](uses.md), [bars of rank and trace](coverage_information.md). Here is what they leave out. Seconds
were taken while other work shared the cores.""",
    (
        Study(
            "rank",
            "Rank",
            f"leaf rank {_MNIST}",
            {"rank": "Ranks of the test images"},
            "Of G and of the distribution D, beside C - 1.",
            "mnist",
        ),
        Study(
            "sweep",
            "Horizontal paths over the training",
            f"leaf sweep {_MNIST} --pairs 10 --max-steps 600",
            {"sweep": "Ends of the paths"},
            "",
            "mnist",
        ),
        Study(
            "ways",
            "Horizontal paths, five ways to walk",
            f"leaf paths {_MNIST} --preset full --pairs 10 --max-steps 2000",
            {
                "paths_curves": "Distances to the destination",
                "paths_images": "Beginning, end and destination",
            },
            "",
            "mnist",
        ),
        Study(
            "cifar10_rank",
            "CIFAR-10: rank",
            f"leaf rank {_CIFAR}",
            {},
            "A network like VGG11, 16 channels in its first layer.",
            "cifar10",
        ),
        Study(
            "cifar10_paths",
            "CIFAR-10: horizontal paths",
            f"leaf paths {_CIFAR} --pairs 5 --max-steps 300",
            {
                "paths_images": "Beginning, end and destination",
            },
            "",
            "cifar10",
        ),
        Study(
            "cifar10_across",
            "CIFAR-10: across the leaves",
            f"leaf across {_CIFAR} --images 4 --max-steps 250",
            {"across_curves": "Confidence along the walks"},
            "",
            "cifar10",
        ),
        Study(
            "sprites",
            "Two manifolds meet: sprites",
            "leaf sprites",
            {"sprites": "Visibility and curvature over the chart"},
            "Tangents of a known manifold beside the distribution of a classifier that learnt it. The"
            " last three columns: the same before training, random directions, and the error bar of a"
            " volume.",
        ),
    ),
    (
        (("rank",), found.ranks("rank", "MNIST")),
        (("sweep",), found.over_training),
        (("ways",), found.ways_to_walk),
        (("cifar10_rank",), found.ranks("cifar10_rank", "CIFAR-10")),
        (("cifar10_paths",), found.cifar10_paths),
        (("cifar10_across",), found.cifar10_across),
        (("sprites",), found.sprites_seen),
    ),
)

_IMAGES = "--fits pca,ref,mmls1,mmls2 --sizes 100,300,1000,3000 --seeds 3 --tests 60"

BOUNDS = Page(
    "Fits of manifolds to samples: errors, slopes, rates and bounds",
    """\
Reduced presets, double precision. By the protocol of Koulakis & Seibold: [figure 3](figure3.md), [figure
5](figure5.md). Seconds were taken while other work shared the cores.""",
    (
        Study(
            "toys",
            "Circle, two moons, sphere, torus",
            "bounds toys --fits pca,ref,mmls1,mmls2,mmls3",
            {"toys-hausdorff-none": "Hausdorff distance, no noise", "toys-rms-none": "RMS, no noise"},
        ),
        Study(
            "sprites",
            "Sprites of 16 pixels",
            f"bounds images --dimensions 1,2,3,4 {_IMAGES}",
            {"images-hausdorff-none": "Hausdorff distance"},
            "Orientation; with scale; with y; with x.",
        ),
        Study(
            "coil20",
            "COIL-20 at 16 pixels",
            f"bounds images --data coil20 --path coil-20-proc.zip --dimensions 1,2,3 {_IMAGES}",
            {"images-hausdorff-none": "Hausdorff distance"},
            "The first object: one to three factors.",
        ),
        Study(
            "reach",
            "Tori against their reach",
            "bounds reach --sizes 250,1000,4000",
            {"reach": "Hausdorff distance"},
        ),
        Study("ambient", "A torus in R^D", "bounds ambient", {"ambient": "Errors"}),
        Study(
            "boundary",
            "With and without a boundary",
            "bounds boundary --fits pca,mmls2 --seeds 3",
            {"boundary": "Errors"},
        ),
        Study(
            "networks",
            "Networks on the same toys",
            "bounds toys --fits dae,vae",
            {"toys-hausdorff-none": "Hausdorff distance, no noise"},
        ),
    ),
    (
        (("toys",), found.follow_the_fit("toys", "Toys")),
        (("sprites",), found.follow_the_fit("sprites", "Sprites")),
        (("coil20",), found.follow_the_fit("coil20", "COIL-20")),
        (("coil20",), found.too_few),
        (("toys",), found.degrees),
        (("networks",), found.networks),
        (("toys",), found.noise_and_neighbours),
        (("toys",), found.explicit_bound),
        (("reach",), found.against_reach),
        (("ambient",), found.ambient_dimension),
        (("boundary",), found.at_a_border),
    ),
)

CALIBRATION = Page(
    "Estimators from samples against exact geometry",
    """\
Samples are uniform by volume, without noise, in double precision. Studies of their own: [k neighbours, the
oracle radius and the Weingarten map](calibration_neighbourhoods.md), [noise and ambient
dimension](calibration_noise.md), [three estimators of the reach](calibration_reaches.md) with the coverage
of their bars, [ball volumes by a published recipe](calibration_balls.md). The run was interrupted and went
on: the seconds after the command are those of the last call.""",
    (
        Study(
            "all",
            "All estimators and the grid",
            "calibrate --preset full --size 500 --size 1000 --size 2000 --size 5000 --manifold sphere2 "
            "--manifold sphere3 --manifold torus --manifold hyperboloid",
            {"calibrate": "Relative errors against the number of samples"},
            "",
            "",
            "quantity",
        ),
        Study(
            "sprite2",
            "Two factors of a sprite",
            "calibrate --preset full --size 500 --size 1000 --size 2000 --size 5000 --manifold sprite2",
            {},
            "",
            "",
            "quantity",
        ),
        Study(
            "sprite4",
            "Four factors of a sprite",
            "calibrate --preset full --manifold sprite4 --size 500 --size 1000 --size 2000",
            {},
            "",
            "",
            "quantity",
        ),
    ),
    (
        (("all",), found.grid_and_estimators),
        (("all",), found.tangents),
        (("all",), found.scalar_curvatures),
        (("all",), found.volumes_and_reach),
        (("all",), found.dimensions),
        (("sprite4",), found.four_factors),
    ),
)


def _estimators(study: str, title: str, options: str, *, drawn: bool = True) -> Page:
    """A page of one study of what estimators from samples see."""
    command = f"calibrate {study} --preset full {options}"
    about = "One of the studies of [estimators from samples](calibration.md)."
    return Page(title, about, (Study(study, title, command, {study: title} if drawn else {}),))


PAGES = {
    "leaf": LEAF,
    "layers": LAYERS,
    "bounds": BOUNDS,
    "calibration": CALIBRATION,
    "calibration_neighbourhoods": _estimators(
        "neighbourhoods",
        "Curvature by two regressions: k neighbours and the oracle radius",
        "--size 4000 --seeds 3",
    ),
    "calibration_noise": _estimators(
        "noise", "Estimators from samples against noise and ambient dimension", "--seeds 2"
    ),
    "calibration_reaches": _estimators(
        "reaches", "Reach from samples by three estimators", "--seeds 12 --size 200 --size 500"
    ),
    "calibration_balls": _estimators(
        "balls", "Scalar curvature of S^2 from the volumes of balls", "--size 1000 --size 4000", drawn=False
    ),
}
