// Draws the strength at each step on the nodes that set it, while their sliders move. Without it the nodes work the same.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { earlySteps, inOtherUnits, strengthsOf } from "./strength.js";

const NODES = [
    "CustomCrafterDynamicWeightedKSampler",
    "CustomCrafterDynamicSubjectWeights",
    "CustomCrafterDynamicLoRAWeights",
];
const READ = ["lambda_s", "lambda_l", "k", "curve", "steps", "total_steps", "switch_by", "switch_at"];
const LIST = ["sampler_name", "scheduler", "steps", "denoise"]; // what a sampler's noise levels hang on
const USUAL_STEPS = 50; // the paper's: what is drawn where only the sampler knows how many there are
const [HEIGHT, MARGIN] = [116, 8];
const [LEFT, RIGHT, TOP, BOTTOM] = [36, 10, 18, 18];
const [PAPER, INK, GRID, LINE] = ["#1b1d22", "#c8ccd4", "#3a3f4a", "#6cb6ff"];

/** Values of a node's widgets, and which of them a link sets instead. */
function read(node) {
    const values = {};
    for (const widget of node.widgets ?? []) if (READ.includes(widget.name)) values[widget.name] = widget.value;
    const linked = (node.inputs ?? []).filter((input) => READ.includes(input.name) && input.link != null);
    return { values, linked: linked.map((input) => input.name) };
}

/** The noise levels of a sampler of this pack, asked of the host once for each list; of others they are known after a run. */
const asked = new Map();
function levelsOf(node, told, update) {
    const list = LIST.map((name) => node.widgets.find((widget) => widget.name === name)?.value);
    if (list.includes(undefined)) return told;
    const address = `/customcrafter/levels?${new URLSearchParams(LIST.map((name, i) => [name, list[i]]))}`;
    if (!asked.has(address)) {
        asked.set(address, null);
        api.fetchApi(address)
            .then((answer) => answer.json())
            .then((levels) => asked.set(address, levels))
            .then(update, () => {});
    }
    return asked.get(address);
}

/** What is drawn: strengths, and words in the corners. */
function describe({ values, linked }, levels) {
    if (linked.length) return { strengths: [], above: `${linked.join(", ")}: set by a link`, last: "" };
    const own = values.steps ?? (values.total_steps || levels?.length);
    const steps = own || USUAL_STEPS;
    const strengths = strengthsOf(values, steps, levels);
    const last = own ? `step ${steps}` : `if ${steps} steps`;
    if (values.curve?.trim()) {
        return strengths ? { strengths, above: "curve", last } : { strengths: [], above: "curve: not understood", last: "" };
    }
    const [s, l] = [`λs ${values.lambda_s.toFixed(2)}`, `λl ${values.lambda_l.toFixed(2)}`];
    if (!strengths) {
        return { strengths: [], above: `${s} above ${values.switch_by} ${values.switch_at}, then ${l}`, last: "" };
    }
    const k = earlySteps(values, steps, levels).filter(Boolean).length;
    const count = own ? `K ${k} of ${steps}` : `K ${k}`;
    const parts = k <= 0 ? [l] : k >= steps ? [s, count, "λl not used"] : [s, count, l];
    return { strengths, above: parts.join("    "), last, below: own ? `= ${inOtherUnits(k, steps, levels)}` : "" };
}

/** Draw into a canvas of this width and height, which the page shows at some scale. */
function draw(canvas, [width, tall, scale], { strengths, above, last, below }) {
    canvas.width = width * scale;
    canvas.height = tall * scale;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.fillStyle = PAPER;
    context.fillRect(0, 0, width, tall);
    context.font = "11px sans-serif";
    context.textBaseline = "middle";
    const text = (words, x, y, align) => {
        context.fillStyle = INK;
        context.textAlign = align;
        context.fillText(words, x, y);
    };
    text(above, LEFT, TOP / 2, "left");
    if (!strengths.length) return;
    const [low, high] = [Math.min(0, ...strengths), Math.max(1, ...strengths)];
    const height = (value) => tall - BOTTOM - ((value - low) / (high - low)) * (tall - TOP - BOTTOM);
    const step = (width - LEFT - RIGHT) / strengths.length;
    context.strokeStyle = GRID;
    context.lineWidth = 1;
    for (const value of new Set([low, 0, high])) {
        context.beginPath();
        context.moveTo(LEFT, height(value));
        context.lineTo(width - RIGHT, height(value));
        context.stroke();
        text(value.toFixed(1), LEFT - 6, height(value), "right");
    }
    context.strokeStyle = LINE;
    context.lineWidth = 2;
    context.beginPath();
    strengths.forEach((value, i) => {
        context.lineTo(LEFT + i * step, height(value));
        context.lineTo(LEFT + (i + 1) * step, height(value));
    });
    context.stroke();
    text("step 1", LEFT, tall - BOTTOM / 2, "left");
    text(below ?? "", (LEFT + width - RIGHT) / 2, tall - BOTTOM / 2, "center");
    text(last, width - RIGHT, tall - BOTTOM / 2, "right");
}

/** Put the picture below a node's widgets. */
function addCurve(node) {
    const canvas = document.createElement("canvas");
    canvas.style.width = canvas.style.height = "100%";
    canvas.dataset.customcrafter = "strength";
    let [drawn, told] = ["", null];
    const find = (name) => node.widgets.find((widget) => widget.name === name);
    const update = () => {
        try {
            const [by, k, at] = ["switch_by", "k", "switch_at"].map(find);
            if (by && k && at) [k.disabled, at.disabled] = [by.value !== "steps", by.value === "steps"];
            const shown = describe(read(node), levelsOf(node, told, update));
            const zoom = canvas.getBoundingClientRect().width / canvas.clientWidth || 1;
            const size = [canvas.clientWidth, canvas.clientHeight, zoom * (window.devicePixelRatio || 1)];
            const key = JSON.stringify([shown, size]);
            if (key !== drawn && size[0] && size[1]) draw(canvas, size, shown);
            drawn = key;
        } catch {
            // a picture less, and nothing else
        }
    };
    const fixed = () => HEIGHT;
    const options = {
        serialize: false, // not sent to run
        hideOnZoom: false,
        margin: MARGIN,
        getMinHeight: fixed,
        getMaxHeight: fixed,
        onDraw: update,
    };
    const widget = node.addDOMWidget("strength_curve", "customcrafter_strength", canvas, options);
    widget.serialize = false; // nor saved with a workflow
    for (const other of node.widgets) {
        if (!READ.includes(other.name)) continue;
        const told = other.callback;
        other.callback = function (...given) {
            const answer = told?.apply(this, given);
            update();
            return answer;
        };
    }
    const connected = node.onConnectionsChange; // a link may set a slider's value
    node.onConnectionsChange = function (...given) {
        const answer = connected?.apply(this, given);
        setTimeout(update); // the link is in place by then
        return answer;
    };
    api.addEventListener("customcrafter.levels", ({ detail }) => {
        if (String(detail.node) !== String(node.id)) return;
        told = detail.levels;
        update();
    });
    new ResizeObserver(update).observe(canvas);
    const needed = node.computeSize();
    node.setSize([0, 1].map((side) => Math.max(node.size[side], needed[side])));
}

try {
    app.registerExtension({
        name: "CustomCrafter.StrengthCurve",
        nodeCreated(node) {
            try {
                if (NODES.includes(node.comfyClass) && typeof node.addDOMWidget === "function") addCurve(node);
            } catch {
                // the node stays as the host makes it
            }
        },
    });
} catch {
    // a page without extensions, or the pack installed twice
}
