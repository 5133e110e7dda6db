// Entry point: routing between the two pages, file input, notices, and the form for the API key.

import { apiEvents, clearKey, hasKey, request, requestJson, setKey } from "./api.js";
import { setUpCamera } from "./camera.js";
import { EvaluationPage } from "./evaluation-page.js";
import { isBeingRead } from "./model-picker.js";
import { SegmentPage } from "./segment-page.js";

/** @import { ApiError } from "./api.js" */

const EXAMPLES = ["junction", "avenue", "crossing"];
const SITE_TITLE = document.title;
const MODELS_POLL_MS = 1000; // while the service is still reading its models
const VIDEO_NAME = /\.(3gp|avi|flv|m2ts|m4v|mkv|mov|mp4|mpe?g|mts|ogv|ts|webm|wmv)$/i;
const $ = (id) => document.getElementById(id);

const segmentPage = new SegmentPage(onError, loadModels);
const evaluationPage = new EvaluationPage(onError);

/** Show what went wrong, or ask for an API key if a key is what is missing. */
function onError(error) {
  if (!error.needsKey) {
    showNotice(error.message, { code: error.code, retryable: error.isTransient });
    return;
  }
  if (error.code === "insufficient_scope") { // the key stays, because other requests accept it
    showNotice(error.message, { code: error.code });
  } else if (hasKey()) {
    showNotice("The service does not accept this API key. Enter another key.", { code: error.code });
    clearKey();
  }
  $("key-form").hidden = false;
  $("key").focus();
}

function showNotice(message, { code = "", retryable = false } = {}) {
  const notice = $("notice");
  notice.hidden = false;
  notice.textContent = message;
  notice.dataset.code = code;
  if (!retryable) return;
  notice.append(Object.assign(document.createElement("button"), { type: "button", textContent: "Try again", onclick: retry }));
}

/** Hide an element without losing the focus with it. */
function hide(element) {
  const hadFocus = element.contains(document.activeElement);
  element.hidden = true;
  if (hadFocus) $("content").focus({ preventScroll: true });
}

/** Withdraw the "not responding" notice, unless its button is still needed to repeat a failed request. */
function onApiSuccess() {
  if ($("notice").hidden || $("notice").dataset.code !== "unreachable" || segmentPage.queue.hasRetryable) return;
  hide($("notice"));
  evaluationPage.open(); // resumes polling
}

async function retry() {
  hide($("notice"));
  await refreshModels();
  segmentPage.queue.retry();
  evaluationPage.open();
}

let modelsTimer;

/** Load the list of models; both pages depend on it. Throws ApiError. */
async function loadModels() {
  const list = await requestJson("models");
  segmentPage.updateModels(list);
  evaluationPage.updateModels(list);
  clearTimeout(modelsTimer);
  if (list.models.some(isBeingRead)) modelsTimer = setTimeout(refreshModels, MODELS_POLL_MS);
}

const refreshModels = () => loadModels().catch(onError);

const currentPage = () => (location.hash === "#evaluation" ? "evaluation" : "segment");

/** Show the page that the address names. */
function onRouteChange() {
  hide($("notice"));
  hide($("key-form"));
  const current = currentPage();
  for (const id of ["segment", "evaluation"]) {
    $(id).hidden = id !== current;
    if (id === current) $(`nav-${id}`).setAttribute("aria-current", "page");
    else $(`nav-${id}`).removeAttribute("aria-current");
  }
  document.title = `${$(`nav-${current}`).textContent} – ${SITE_TITLE}`;
  if (current !== "segment") segmentPage.stopLive();
  if (current === "evaluation") evaluationPage.open();
  else evaluationPage.close();
  if (!segmentPage.picker.models.length) refreshModels(); // the first attempt has failed, or there was none
  if (current === "segment") segmentPage.queue.retry(); // because the notice with the button for it is hidden now
}

function addFiles(files) {
  if (!files.length) return;
  hide($("notice"));
  if (location.hash === "#evaluation") location.hash = "#segment";
  const videos = files.filter(isVideo), images = files.filter((file) => !isVideo(file));
  if (images.length) segmentPage.add(images);
  else segmentPage.startLive(videos[0]);
  if (videos.length && files.length > 1) showNotice("A video can only be segmented on its own: choose one video and no other file.");
}

/** Whether a file is a video. Browsers don't know the type of every file. */
const isVideo = ({ name, type }) => (type ? type.startsWith("video/") : VIDEO_NAME.test(name));

function bindEvents() {
  addEventListener("hashchange", () => {
    onRouteChange();
    $(currentPage()).focus({ preventScroll: true }); // screen readers start to read here
  });
  // The skip link must not change the address, which selects the page.
  $("skip").onclick = (event) => { event.preventDefault(); $("content").focus(); };
  apiEvents.addEventListener("success", onApiSuccess);
  $("files").onchange = ({ target }) => { addFiles([...target.files]); target.value = ""; };
  $("live-camera").onclick = () => { hide($("notice")); segmentPage.startLive(null); };
  $("key-form").onsubmit = onKeySubmit;
  setUpCamera(addFiles, showNotice);

  let dragDepth = 0; // nested elements that a dragged file has entered and not left
  const setDragDepth = (depth) => {
    dragDepth = Math.max(0, depth);
    document.body.classList.toggle("dragging", dragDepth > 0);
  };
  addEventListener("dragenter", (event) => { event.preventDefault(); setDragDepth(dragDepth + 1); });
  addEventListener("dragleave", () => setDragDepth(dragDepth - 1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => { event.preventDefault(); setDragDepth(0); addFiles([...event.dataTransfer.files]); });
  addEventListener("paste", (event) => addFiles([...event.clipboardData.files]));
}

function onKeySubmit(event) {
  event.preventDefault();
  const accepted = setKey($("key").value.trim());
  $("key").value = "";
  if (!accepted) {
    showNotice("An API key consists of letters, digits and punctuation without spaces. Enter it again.");
    return;
  }
  hide($("key-form"));
  retry();
}

function showExamples() {
  $("examples").append(...EXAMPLES.map((name) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const image = Object.assign(document.createElement("img"), { src: `static/examples/${name}.jpg`, alt: `example: ${name}` });
    button.append(image);
    button.onclick = async () => {
      try {
        const blob = await (await request(image.src)).blob();
        addFiles([new File([blob], `${name}.jpg`, { type: blob.type })]);
      } catch (error) {
        onError(error);
      }
    };
    return button;
  }));
}

bindEvents();
showExamples();
onRouteChange();
