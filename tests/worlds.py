"""Made-up tables of a run: what the paper reports, at its sample sizes, and changes to it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from mae_helpers.measures.accuracy import accuracy_table, beside_clean
from mae_helpers.measures.masking import cosine_table
from mae_helpers.perturbations.blur import BLUR
from mae_helpers.perturbations.corruptions import GROUP_OF
from mae_helpers.verdicts.published import published

MAE, VIT, PRETRAINED, RANDOM = "mae_finetuned", "vit_supervised", "mae_pretrained", "random"
CLASSES, EACH, LAYERS, HEADS = 10, 50, 12, 12
BLURS, PERCENTS = ["clean", *BLUR], list(range(0, 100, 10))
CLEAN = 93.4
TABLE1 = [CLEAN, *published("table1_blur")["top1_percent"]]
FIG5 = published("fig5_occlusion")["top1_percent"].tolist()
COSINES = published("table3_cosine").groupby("perturbation", sort=False)["mean_cosine"].apply(list).to_dict()
BLUR_COSINE, OCCLUSION_COSINE = [1.0, *COSINES["gaussian_blur"]], COSINES["occlusion"]


def ramp(start, end, count=11):
    return np.linspace(start, end, count).tolist()


def right(percent, images=CLASSES * EACH, seed=0):
    """Which images are right: the same ones stay easy, but for some that change places."""
    ease = np.random.default_rng(99).permutation(images) + np.random.default_rng(seed).normal(0, images / 50, images)
    return ease.argsort().argsort() < round(percent / 100 * images)


def accuracies(by_model, images=CLASSES * EACH, classes=1000):
    """The table of accuracies {model: {level: percent}}, clean as the level `clean` or else the first one."""
    sets = {model: SimpleNamespace(labels=np.zeros(images, int)) for model in by_model}
    predictions = {
        model: {level: 1 - right(top1, images, seed) for seed, (level, top1) in enumerate(levels.items())}
        for model, levels in by_model.items()
    }
    table = accuracy_table(predictions, sets)
    clean = table.groupby("model", sort=False).head(1)
    return beside_clean(table, clean, dict.fromkeys(by_model, classes))


def table1(mae=TABLE1, vit=None, psnr=None, **options):
    """Accuracies by level of both models; PSNR falls unless given, SSIM always."""
    vit = vit or [CLEAN, *[0.7 * top1 for top1 in mae[1:]]]
    table = accuracies({VIT: dict(zip(BLURS, vit, strict=True)), MAE: dict(zip(BLURS, mae, strict=True))}, **options)
    return table.assign(psnr_db=2 * (psnr or ramp(30, 20)), ssim=2 * ramp(1, 0.4))


def fig5(mae=FIG5, vit=None, random=None, **options):
    """Accuracies by percent, guided and at random (less costly unless given), of both models."""
    vit = vit or [mae[0], *[0.7 * top1 for top1 in mae[1:]]]
    random = random or [mae[0], *[(top1 + 2 * mae[0]) / 3 for top1 in mae[1:]]]
    tables = []
    for ranking, first in (("random", random), ("cls_rollout", mae)):
        levels = {VIT: dict(zip(PERCENTS, vit, strict=True)), MAE: dict(zip(PERCENTS, first, strict=True))}
        tables.append(accuracies(levels, **options).assign(ranking=ranking))
    return pd.concat(tables).rename(columns={"level": "occlusion_percent"})


PAPER_C = published("table2_imagenet_c").set_index(["corruption", "severity"])["top1_percent"]


def table2(
    top1=lambda name, severity: PAPER_C[name, severity], vit=lambda name, severity: 0.7 * PAPER_C[name, severity]
):
    """`top1(corruption, severity)` of both models."""
    cells = [(name, severity) for name in GROUP_OF for severity in range(1, 6)]
    by_model = {
        model: {"clean": CLEAN} | {cell: of(*cell) for cell in cells} for model, of in ((VIT, vit), (MAE, top1))
    }
    table = accuracies(by_model)
    table = table[table["level"] != "clean"]
    return table.assign(
        corruption=table["level"].str[0], severity=table["level"].str[1], group=table["level"].str[0].map(GROUP_OF)
    )


def shifted(*top1, images=500):
    return pd.DataFrame({"model": MAE, "dataset": ["R", "A"][: len(top1)], "images": images, "top1_percent": top1})


def table3(
    blur=BLUR_COSINE, occlusion=OCCLUSION_COSINE, untrained=0.4, others=0.2, norm=0.05, gap=0.4, top1=(TABLE1, FIG5)
):
    """Per image: mean cosines by level of MAE, wrong images lower by `gap`; an untrained network is at `untrained`.

    Its embeddings of different images have the cosine `others`, MAE's 0.2.
    """
    tables, images = [], CLASSES * EACH
    for name, levels, cosines, accuracy in (
        ("gaussian_blur", BLURS, blur, top1[0]),
        ("occlusion", PERCENTS, occlusion, top1[1]),
    ):
        for model, means in ((MAE, cosines), (RANDOM, [1.0, *[untrained] * (len(levels) - 1)])):
            for seed, (level, mean, percent) in enumerate(zip(levels, means, accuracy, strict=True)):
                correct, noise = right(percent, seed=seed), np.random.default_rng(seed).normal(0, 0.05, images)
                apart = gap * (correct - correct.mean()) * (mean < 1)
                cosine = mean + apart + (noise - noise.mean()) * (mean < 1)
                change = (norm if model == MAE else 0.2) * (1 - np.isin(level, ["clean", 0])) * (1 + noise)
                table = {"model": model, "perturbation": name, "level": level, "image": range(images), "cosine": cosine}
                table |= {"others": 0.2 if model == MAE else others, "norm_deviation": 0.1, "correct": correct}
                tables.append(pd.DataFrame(table | {"relative_norm_difference": change}))
    return pd.concat(tables, ignore_index=True)


def features(
    share=lambda name, place, layer: 1 - place * (0.1 + 0.05 * layer / LAYERS),
    untrained=lambda name, place, layer: 1 - 0.8 * place,
    clean=lambda layer: 7.5 - 0.35 * layer,
    shared=0.0,
):
    """Counts by class, layer and level: `share(perturbation, place of the level from 0 to 1, layer)` of the clean ones.

    Of an untrained network's, a share `shared` is another class's as well.
    """
    tables = []
    for name, levels in (("gaussian_blur", BLURS), ("occlusion", PERCENTS)):
        places = dict(zip(levels, ramp(0, 1, len(levels)), strict=True))
        for model, of, start in ((MAE, share, clean), (RANDOM, untrained, lambda _: 5.0)):
            axes = {"perturbation": [name], "level": levels, "class": range(CLASSES), "layer": range(1, LAYERS + 1)}
            table = pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)
            noise = 1 + np.random.default_rng(0).normal(0, 0.02, CLASSES)[table["class"]]
            table["clean_count"] = table["layer"].map(start) * noise
            table["shared_count"] = (shared if model == RANDOM else 0) * table["clean_count"]
            kept = [of(name, places[level], layer) for level, layer in table[["level", "layer"]].to_numpy(object)]
            tables.append(table.assign(model=model, retained_count=table["clean_count"] * kept))
    return pd.concat(tables, ignore_index=True)


def separation(mae=(20, 45, 90), random=(20, 22, 24), climb_at=9, untrained_climb=0.02, token="cls"):
    """kNN accuracy by thirds of the layers, and a silhouette that climbs within three layers."""
    tables, layer = [], np.arange(1, LAYERS + 1)
    for model, thirds, climb in ((PRETRAINED, mae, 0.4), (RANDOM, random, untrained_climb)):
        knn, silhouette = np.repeat(thirds, LAYERS // 3).astype(float), np.where(layer >= climb_at, climb, 0.0)
        table = {"model": model, "token": token, "layer": layer, "knn_percent": knn, "silhouette": silhouette}
        table |= {"knn_low": knn - 4, "knn_high": knn + 4}
        tables.append(pd.DataFrame(table | {"silhouette_low": silhouette - 0.02, "silhouette_high": silhouette + 0.02}))
    return pd.concat(tables)


def distances(mae=(0.8, 0.88), vit=(0.2, 1.0), random=(0.995, 1.005), images="first"):
    """Shares of uniform attention's distance from the first layer to the last, heads around that."""
    layer, head = (index.ravel() + 1 for index in np.indices((LAYERS, HEADS)))
    tables = []
    for model, ends in ((PRETRAINED, mae), (VIT, vit), (RANDOM, random)):
        spread = 0.03 * (ends[1] - ends[0]) * (head - (HEADS + 1) / 2) / HEADS
        share = ends[0] + (ends[1] - ends[0]) * (layer - 1) / (LAYERS - 1) + spread
        table = {"model": model, "images": images, "layer": layer, "head": head, "distance_px": 116.5 * share}
        tables.append(pd.DataFrame(table | {"uniform_px": 116.5}))
    return pd.concat(tables, ignore_index=True)


def angles(mae=(10, 40), spread=(2, 8), random=(10, 14), halves=8.0, untrained_halves=8.0):
    """theta_1 of 45 pairs of classes by layer, and of both controls, which stay where they are."""
    tables = []
    pairs = [(a, b) for a in range(CLASSES) for b in range(a)]
    place = np.linspace(-1, 1, len(pairs))
    for model, ends, control in ((PRETRAINED, mae, halves), (RANDOM, random, untrained_halves)):
        for layer, at in enumerate(ramp(0, 1, LAYERS), 1):
            around = ends[0] + (ends[1] - ends[0]) * at + place * (spread[0] + (spread[1] - spread[0]) * at)
            for kind, values in (("between_classes", around), ("split_half", control), ("shuffled_labels", control)):
                table = {"model": model, "control": kind, "main": True, "layer": layer, "theta1_deg": values}
                tables.append(pd.DataFrame(pairs, columns=["class_a", "class_b"]).assign(**table))
    return pd.concat(tables, ignore_index=True)


def singular(largest=(10, 50), smallest=(1, 3), random=(10, 12)):
    """Singular values by layer of ten classes, the first and the last."""
    tables = []
    for model, of in ((PRETRAINED, (largest, smallest)), (RANDOM, (random, [0.1 * end for end in random]))):
        for index, ends in enumerate(of, 1):
            for name in range(CLASSES):
                values = np.multiply(ramp(*ends, LAYERS), 1 + 0.01 * name)
                table = {"model": model, "class": name, "index": index, "layer": range(1, LAYERS + 1)}
                tables.append(pd.DataFrame(table | {"singular_value": values}))
    return pd.concat(tables, ignore_index=True)


def masks(within=0.98, between=0.3, random=(0.99, 0.98), norms=1.0, tail=0.0):
    """Cosines within an image's masks and between images, and ten images of mean norms 50 to 60 with 20 masks each."""
    summaries, tables = [], []
    for model, inside, across in ((PRETRAINED, within, between), (RANDOM, *random)):
        pairs = [("within", inside)] * 19 + [("within", inside - tail)] * 2 + [("between", across)] * 20
        summaries.append(cosine_table(pd.DataFrame(pairs, columns=["pair", "cosine"])).assign(model=model))
        image, draw = np.divmod(np.arange(200), 20)
        norm = 50 + image * 10 / 9 + norms * (draw / 19 - 0.5)
        table = {
            "model": model,
            "image": image,
            "norm": norm,
            "cosine_to_mean": 1 - (1 - inside) / 2 * (1 + 0.05 * image),
        }
        tables.append(pd.DataFrame(table))
    return [pd.concat(summaries), pd.concat(tables)]
