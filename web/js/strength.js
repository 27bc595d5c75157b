// The strength at each step, as customcrafter_core/diffusion/strength.py computes it; a test holds both together.

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** Points [progress, strength] of a text such as "0:0.4, 0.1:0.8", by progress; null if it is not of this form. */
export function parseCurve(text) {
    const points = [];
    for (const part of text.replaceAll(";", ",").split(",")) {
        if (!part.trim()) continue;
        const pair = part.split(":").map((number) => number.trim());
        if (pair.length !== 2 || !pair.every((number) => NUMBER.test(number))) return null;
        const [progress, strength] = pair.map(Number);
        if (!(progress >= 0 && progress <= 1) || !Number.isFinite(strength)) return null;
        points.push([progress, strength]);
    }
    return points.length ? points.sort((a, b) => a[0] - b[0]) : null;
}

/** Strength of a curve at a progress from 0 to 1: linear between points, flat outside. */
function curveAt(points, progress) {
    const right = points.findIndex(([x]) => x > progress);
    if (right === 0) return points[0][1];
    if (right === -1) return points.at(-1)[1];
    const [[x0, y0], [x1, y1]] = [points[right - 1], points[right]];
    return y0 + ((y1 - y0) * (progress - x0)) / (x1 - x0);
}

/** The strength at every step; null if the curve's text is not understood. */
export function strengthsOf({ lambda_s, lambda_l, k, curve }, steps) {
    const all = Array.from({ length: steps }, (_, step) => step);
    if (curve && curve.trim()) {
        const points = parseCurve(curve);
        return points && all.map((step) => curveAt(points, steps > 1 ? step / (steps - 1) : 0));
    }
    const round = (value) => Math.round(value * 1000) / 1000; // sliders leave unrounded values
    return all.map((step) => (step < k ? round(lambda_s) : round(lambda_l)));
}
