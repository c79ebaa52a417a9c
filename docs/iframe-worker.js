// The theme searches in a worker, which browsers refuse to pages that are opened from the disk: there, a hidden frame
// does a worker's work. The theme would fetch a script for it from the network; the name of this file tells it not to.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      const waiting = []
      this.postMessage = data => waiting.push(data)
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      const script = frame.contentDocument.createElement("script")
      script.src = address
      script.onload = () => {
        this.postMessage = data => inside.dispatchEvent(new inside.MessageEvent("message", { data }))
        waiting.forEach(this.postMessage)
      }
      frame.contentDocument.body.append(script)
    }
  }
}
