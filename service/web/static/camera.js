// A photograph from the camera: a live picture where the browser gives one, else the phone's own camera.

/** Call `taken` with the photograph as a File, or `tell` with why there will be none. */
export function camera(taken, tell) {
  const $ = (id) => document.getElementById(id);
  const dialog = $("camera-dialog"), video = $("video");

  const close = () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  };
  dialog.addEventListener("close", close);
  $("camera-close").onclick = () => dialog.close();

  /** No live picture: no camera, no leave, or an address without https. */
  const instead = ({ message }) => {
    if (navigator.userActivation?.isActive ?? true) $("snapshot").click();
    else tell(`The camera can't be used (${message}); choose a photograph instead.`); // the click is too long ago to open a file by it
  };

  const asked = async () => {
    const button = $("camera"), focused = document.activeElement === button;
    button.disabled = true; // a second click would ask for a second stream, which nobody ends
    try {
      return await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    } finally {
      button.disabled = false;
      if (focused) button.focus(); // a button that can't be used has lost it
    }
  };

  $("camera").onclick = async () => {
    close();
    try {
      video.srcObject = await asked();
    } catch (error) {
      instead(error);
      return;
    }
    $("shoot").disabled = true; // until there is a picture
    if (!dialog.open) dialog.showModal();
    await video.play();
    $("shoot").disabled = false;
  };
  $("snapshot").onchange = ({ target }) => { taken([...target.files]); target.value = ""; };

  $("shoot").onclick = async () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const photo = await new Promise((made) => canvas.toBlob(made, "image/jpeg", 0.95));
    dialog.close();
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    taken([new File([photo], `camera-${time}.jpg`, { type: "image/jpeg" })]);
  };
}
