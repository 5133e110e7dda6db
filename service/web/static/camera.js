// Camera: take an image from a live preview, or with the device's camera application if the browser offers no preview.

/**
 * Open the camera, on a phone the one at the back.
 * @returns {Promise<MediaStream>}
 * @throws {DOMException | TypeError} without a camera, without permission, or on an address without https
 */
export function openCamera() {
  return navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
}

/**
 * Set up the camera button and its dialog.
 * @param {(files: File[]) => void} onImage called with the image
 * @param {(message: string) => void} showNotice called with the reason if no image can be taken
 */
export function setUpCamera(onImage, showNotice) {
  const $ = (id) => document.getElementById(id);
  const dialog = $("camera-dialog"), video = $("video"), capture = $("capture");

  const stopStream = () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
  };
  dialog.addEventListener("close", stopStream);
  $("camera-close").onclick = () => dialog.close();

  /** Without a preview (no camera, no permission, or an address without https), open a file chooser. */
  const fallBack = ({ message }) => {
    // The browser opens a file chooser only shortly after a click, and the permission prompt can have taken longer.
    if (navigator.userActivation?.isActive ?? true) $("camera-file").click();
    else showNotice(`The camera is not available (${message}). Choose an image file instead.`);
  };

  const openStream = async () => {
    const button = $("open-camera"), hadFocus = document.activeElement === button;
    button.disabled = true; // a second click would open a second stream that nothing stops
    try {
      return await openCamera();
    } finally {
      button.disabled = false;
      if (hadFocus) button.focus(); // a disabled button loses the focus
    }
  };

  $("open-camera").onclick = async () => {
    stopStream();
    try {
      video.srcObject = await openStream();
    } catch (error) {
      fallBack(error);
      return;
    }
    capture.disabled = true; // until there is a frame to capture
    if (!dialog.open) dialog.showModal();
    try {
      await video.play();
      capture.disabled = false;
    } catch (error) {
      if (!dialog.open) return; // the user closed the dialog before the preview started
      dialog.close();
      fallBack(error);
    }
  };
  $("camera-file").onchange = ({ target }) => { onImage([...target.files]); target.value = ""; };

  capture.onclick = async () => {
    capture.disabled = true; // a double click would capture two images
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
    dialog.close();
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    onImage([new File([blob], `camera-${time}.jpg`, { type: "image/jpeg" })]);
  };
}
