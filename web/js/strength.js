// The strength at each step, as customcrafter_core/diffusion computes it; a test holds both together.

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const [SAME_TIMESTEP, SAME_SIGMA] = [1e-3, 1e-6];

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

/**
 * Which of the steps run at λs; null where that hangs on noise levels that are not known.
 * @param levels for each step the noise at which it begins: [sigma, timestep or null]
 */
export function earlySteps({ k, switch_by, switch_at }, steps, levels) {
    const all = Array.from({ length: steps }, (_, step) => step);
    if (switch_by === "percent") return all.map((step) => step < Math.floor((steps * switch_at) / 100 + 0.5));
    if (switch_by !== "timestep" && switch_by !== "sigma") return all.map((step) => step < k);
    const at = levels?.map(([sigma, timestep]) => (switch_by === "sigma" ? sigma : timestep));
    if (at?.length !== steps || at.includes(null)) return null;
    const same = switch_by === "timestep" ? SAME_TIMESTEP : SAME_SIGMA * switch_at;
    return at.map((level) => level > switch_at + same);
}

/** The strength at every step; null if the curve's text is not understood or the noise levels are not known. */
export function strengthsOf(values, steps, levels) {
    const { lambda_s, lambda_l, curve } = values;
    if (curve && curve.trim()) {
        const points = parseCurve(curve);
        return points && Array.from({ length: steps }, (_, i) => curveAt(points, steps > 1 ? i / (steps - 1) : 0));
    }
    const round = (value) => Math.round(value * 1000) / 1000; // sliders leave unrounded values
    const early = earlySteps(values, steps, levels);
    return early && early.map((is) => (is ? round(lambda_s) : round(lambda_l)));
}

/** Where the strength switches, in the other units: "10 % = t 881 = sigma 7.56". Rounded up: typed in, it is the same step. */
export function inOtherUnits(k, steps, levels) {
    const said = [`${+((100 * k) / steps).toPrecision(3)} %`];
    if (levels?.length === steps && k < steps) {
        const [sigma, timestep] = levels[k];
        if (timestep !== null) said.push(`t ${Math.ceil((timestep - SAME_TIMESTEP / 2) * 100) / 100}`);
        said.push(`sigma ${Math.ceil(sigma * 1e4 - 1e-6) / 1e4}`);
    }
    return said.join(" = ");
}
