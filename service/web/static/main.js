// The page put together: which of its two parts is shown, how photographs come in, errors and keys.

import { camera } from "./camera.js";
import { EvaluationPage } from "./evaluation.js";
import { SegmentPage } from "./segment.js";
import { ask, forgetKey, hasKey, service, useKey } from "./service.js";

const EXAMPLES = ["junction", "avenue", "crossing"];
const $ = (id) => document.getElementById(id);

const segmenting = new SegmentPage(refused, list);
const evaluating = new EvaluationPage(refused);

/** Say what went wrong; ask for a key where that is what was wanted. */
function refused(error) {
  if (error.needsKey) {
    if (error.code === "wrong_role") tell(error.message); // it is good for the rest of the page
    else if (hasKey()) {
      tell("The service does not know this key.");
      forgetKey();
    }
    $("key-form").hidden = false;
    $("key").focus();
  } else {
    tell(error.message, error.code === "unreachable" || error.status === 503);
    $("notice").dataset.code = error.code;
  }
}

function tell(message, again = false) {
  $("notice").hidden = false;
  $("notice").textContent = message;
  $("notice").dataset.code = "";
  if (!again) return;
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again", onclick: retry });
  $("notice").append(button);
}

/** What was told, or asked for, is over; the focus does not go with it. */
function hide(element) {
  const focused = element.contains(document.activeElement);
  element.hidden = true;
  if (focused) $("content").focus({ preventScroll: true });
}

/** It is over that nobody answers; with a photograph that still failed by it stays what asks for that again. */
function answered() {
  if ($("notice").hidden || $("notice").dataset.code !== "unreachable" || segmenting.photographs.failing) return;
  hide($("notice"));
  evaluating.open(); // what was followed is followed again
}

async function retry() {
  hide($("notice"));
  await begin();
  segmenting.photographs.retry();
  evaluating.open();
}

let waiting; // to ask for the models again

/** Ask for the models; the rest of the page follows from them. Throws Refusal. */
async function list() {
  const models = await (await ask("models")).json();
  segmenting.models.list(models);
  evaluating.list(models);
  clearTimeout(waiting);
  if (models.models.some(({ labels, error }) => !labels && !error)) waiting = setTimeout(begin, 1000); // it is still reading them
}

const begin = () => list().catch(refused);

function turn() {
  hide($("notice"));
  hide($("key-form"));
  const evaluation = location.hash === "#evaluation";
  $("segment").hidden = evaluation;
  $("evaluation").hidden = !evaluation;
  for (const [id, here] of [["to-segment", !evaluation], ["to-evaluation", evaluation]]) {
    if (here) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  if (evaluation) evaluating.open();
  else evaluating.close();
  if (!segmenting.models.models.length) begin(); // nobody has told yet
  if (!evaluation) segmenting.photographs.retry(); // the notice that offered it is gone
}

function take(files) {
  if (!files.length) return;
  hide($("notice"));
  if (location.hash === "#evaluation") location.hash = "#segment";
  segmenting.add(files);
}

function listen() {
  $("skip").onclick = (event) => { event.preventDefault(); $("content").focus(); }; // not as an address: that is which part is shown
  addEventListener("hashchange", turn);
  service.addEventListener("answered", answered);
  $("files").onchange = ({ target }) => { take([...target.files]); target.value = ""; };
  let depth = 0; // of elements that the pointer has come into while it drags
  const dragged = (by) => { depth = Math.max(0, depth + by); document.body.classList.toggle("dragged", depth > 0); };
  addEventListener("dragenter", (event) => { event.preventDefault(); dragged(1); });
  addEventListener("dragleave", () => dragged(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => { event.preventDefault(); depth = 0; dragged(0); take([...event.dataTransfer.files]); });
  addEventListener("paste", (event) => take([...event.clipboardData.files]));
  $("key-form").onsubmit = (event) => {
    event.preventDefault();
    const taken = useKey($("key").value.trim());
    $("key").value = "";
    if (!taken) return tell("A key has letters, digits and signs only, and no spaces.");
    hide($("key-form"));
    retry();
  };
  camera(take, tell);
}

function offerExamples() {
  $("examples").append(...EXAMPLES.map((name) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const picture = Object.assign(document.createElement("img"), { src: `static/examples/${name}.jpg`, alt: `example: ${name}` });
    button.append(picture);
    button.onclick = async () => {
      try {
        const blob = await (await ask(picture.src)).blob();
        take([new File([blob], `${name}.jpg`, { type: blob.type })]);
      } catch (error) {
        refused(error);
      }
    };
    return button;
  }));
}

listen();
offerExamples();
turn();
